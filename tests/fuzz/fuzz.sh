#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh SRCDIR SECONDS TARGET: one libFuzzer program for a while, in the build tree. What it finds stays in tests/fuzz/found, beside its log.
set -eu
name=${3##*/}
found=tests/fuzz/found/$name
mkdir -p "$found"
if "$3" -max_total_time="$2" -timeout=10 -artifact_prefix="$found-" "$found" "$1/tests/fuzz/corpus/$name" >"$found.log" 2>&1; then
	echo "$name: $(grep '^Done' "$found.log")"
else
	tail -n 60 "$found.log"
	exit 1
fi
