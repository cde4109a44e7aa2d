/* SPDX-License-Identifier: Apache-2.0 */
/* Methods of a service that is not there yet: until it is, calls are refused with UNAVAILABLE. Layer L5.
 * The admin socket listens from the first moment of a start on, the Router service that it also carries comes minutes later. */
#ifndef EX_CORE_GATE_H
#define EX_CORE_GATE_H

#include "net/server.h"
#include <stdatomic.h>

#define EX_GATE_METHODS_MAX 16

struct ex_gate {
	struct ex_gate_entry {
		struct ex_method method;
		_Atomic(const struct ex_method *) real;
	} m[EX_GATE_METHODS_MAX];
	size_t n;
};

/* For the paths given, NULL-terminated (borrowed). All run on loop_i. */
void ex_gate_init(struct ex_gate *g, const char *const *paths, size_t message_bytes_max, int loop_i);
/* From now on calls go to these (borrowed, as long as the gate's server runs). Methods of one request only: no half_close. [any] */
void ex_gate_open(struct ex_gate *g, const struct ex_method *real);

#endif
