#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The plugin printed in docs/PLUGINS.md is the one that is compiled and checked: tests/unit/plugins/example.c, to the letter.
set -eu
awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' "$srcdir/docs/PLUGINS.md" | diff -u "$srcdir/tests/unit/plugins/example.c" -
