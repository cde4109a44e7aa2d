/* SPDX-License-Identifier: Apache-2.0 */
/* What every unit test includes first: cmocka with the headers that it needs. Where a module takes a struct ex_err, use EXPECT_OK, which prints it. */
#ifndef EX_TESTS_UNIT_H
#define EX_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"

/* Passes when expr, which fills err, is 0; else fails with err's text. */
#define EXPECT_OK(err, expr)                                                                                           \
	do {                                                                                                           \
		int expect_rc_ = (expr);                                                                               \
		if (expect_rc_)                                                                                        \
			fail_msg("%s: %d: %s", #expr, expect_rc_, ex_err_text(&(err)));                                \
	} while (0)

#endif
