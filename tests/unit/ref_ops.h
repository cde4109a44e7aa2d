/* SPDX-License-Identifier: Apache-2.0 */
/* The trunk's ops in scalar C with double sums: a backend for unit tests, and the oracle of the fast ones. */
#ifndef EX_TESTS_REF_OPS_H
#define EX_TESTS_REF_OPS_H

#include "trunk/ops.h"

extern const struct ex_ops ref_ops;

#endif
