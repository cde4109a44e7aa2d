#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Recomputes every golden vector with transformers and compares it with the committed one. Exit 0: logits within 1e-5 of max |logit|
# and continuations identical; 1: not (the differences are printed). Needs the packages of tests/models/requirements-oracle.txt.
#
# usage: tests/golden/regenerate.sh [--write] [NAME ...]
#   PYTHON    interpreter of a virtual environment that has them (default: python3)
#   BUILD     build tree, where the program tests/golden/synth is or will be made (default: build)
#   --write   make the vectors anew and overwrite them
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "${BUILD:-$root/build}" && pwd) || { echo "regenerate: no build tree at ${BUILD:-$root/build}: run ./bootstrap build" >&2; exit 1; }
python=${PYTHON:-python3}
mode=--check
if [ "${1:-}" = --write ]; then
	mode=
	shift
fi
"$python" -c 'import torch, transformers, safetensors, tokenizers' || {
	echo "regenerate: $python lacks the packages of tests/models/requirements-oracle.txt (set PYTHON)" >&2
	exit 1
}
make -s -C "$build" tests/golden/synth
# shellcheck disable=SC2086
exec "$python" "$root/tests/golden/generate.py" --synth "$build/tests/golden/synth" $mode ${1:+--only "$@"}
