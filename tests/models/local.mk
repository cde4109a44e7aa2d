# SPDX-License-Identifier: Apache-2.0
# The small trained model, and what made and judges it.
TINY_R1 = config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json eval.jsonl loss.csv README.md
EXTRA_DIST += $(TINY_R1:%=tests/models/tiny-r1/%) tests/models/requirements-oracle.txt tests/models/check_tiny_r1.py tests/models/eval.py \
	tests/models/tiny_r1_data.py tests/models/tiny_r1_model.py tests/models/tiny_r1_tokenizer.py tests/models/train_tiny_r1.py
