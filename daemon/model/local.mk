# SPDX-License-Identifier: Apache-2.0

libexpertd_la_SOURCES += \
	daemon/model/config.c daemon/model/config.h \
	daemon/model/fill.c daemon/model/fill.h \
	daemon/model/json.c daemon/model/json.h \
	daemon/model/matrix.c \
	daemon/model/safetensors.c daemon/model/safetensors.h \
	daemon/model/show.c daemon/model/show.h \
	daemon/model/synth.c daemon/model/synth.h \
	daemon/model/tensors.c daemon/model/tensors.h \
	daemon/model/shape.c daemon/model/shape.h \
	daemon/model/weights.c daemon/model/weights.h

libexpertd_la_SOURCES += \
	daemon/model/tokenizer.c daemon/model/tokenizer.h daemon/model/tokenizer_impl.h \
	daemon/model/tokenizer_json.c daemon/model/added.c daemon/model/bpe.c daemon/model/detok.c \
	daemon/model/later.c daemon/model/normalize.c daemon/model/pretokenize.c daemon/model/regex.c daemon/model/vocab.c \
	daemon/model/chat.c daemon/model/chat.h daemon/model/chat_template.c daemon/model/chat_template.h
