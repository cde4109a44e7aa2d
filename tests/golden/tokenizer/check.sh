#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The ids of the corpus with tiny-r1's tokenizer are the committed ones, which the `tokenizers` library made (compare.py --write).
# Needs no Python. Run from the build tree.
set -u
srcdir=${srcdir:-.}
golden=$srcdir/tests/golden/tokenizer
model=$srcdir/tests/models/tiny-r1
tmp=$(mktemp) || exit 1
trap 'rm -f "$tmp" "$tmp.want"' EXIT
[ -f "$model/tokenizer.json" ] || { echo "check: SKIPPED: no tokenizer in $model"; exit 77; }
tests/golden/tokenizer/encode_lines encode "$model" "$golden/corpus.jsonl" >"$tmp" || exit 1
sed 1d "$golden/tiny-r1.ids" >"$tmp.want"
[ -s "$tmp.want" ] || { echo "check: no expected ids in $golden/tiny-r1.ids"; exit 1; }
diff -u "$tmp.want" "$tmp" || { echo "check: ids differ from $golden/tiny-r1.ids"; exit 1; }
echo "check: $(wc -l <"$tmp") lines, ids equal"
