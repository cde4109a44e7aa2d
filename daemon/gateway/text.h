/* SPDX-License-Identifier: Apache-2.0 */
/* JSON as text: strings written, depth measured before anything is parsed. Pure. Layer L4. */
#ifndef EX_GATEWAY_TEXT_H
#define EX_GATEWAY_TEXT_H

#include "base/str.h"

/* Appends s[0..n) as a JSON string. Bytes that are not UTF-8 become \xNN, as text, in it. [any] */
void ex_json_putn(struct ex_str *out, const char *s, size_t n);
void ex_json_put(struct ex_str *out, const char *s); /* of a C string */

/* How deep arrays and objects of text are nested, without parsing it. [any] */
size_t ex_json_depth(const char *text, size_t n);

#endif
