/* SPDX-License-Identifier: Apache-2.0 */
/* The entry point of a fuzz target, by libFuzzer's name and signature. */
#ifndef EX_TESTS_FUZZ_H
#define EX_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Handles one input; returns 0. What must not happen ends the process: a sanitizer's finding, or a failed assert. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
