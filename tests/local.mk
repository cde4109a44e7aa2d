# SPDX-License-Identifier: Apache-2.0
# The runner of `make check`; each kind of test adds its own in its folder's local.mk.
include tests/unit/local.mk
include tests/parity/local.mk
include tests/models/local.mk
include tests/golden/local.mk
include tests/sys/local.mk
include tests/fuzz/local.mk
include tests/bench/local.mk

# The rules of the tree, held by reading it.
TREE_CHECKS = tests/check_includes.py tests/check_style.py
EXTRA_DIST += $(TREE_CHECKS)
TESTS += $(TREE_CHECKS)
