#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# compare.py as a test: with the Python of $PYTHON (default python3); skipped, loudly, where it lacks the packages.
set -u
srcdir=${srcdir:-.}
model=$srcdir/tests/models/tiny-r1
[ -f "$model/tokenizer.json" ] || model=
exec "${PYTHON:-python3}" "$srcdir/tests/golden/tokenizer/compare.py" tests/golden/tokenizer/encode_lines \
	${model:+--tiny "$model"} --random 500
