/* SPDX-License-Identifier: Apache-2.0 */
/* A file that describes hosts which need not exist, for simulations. Layer L2.
 *
 *     [host h1]               one host
 *     memory = 80G            for shards; K, M, G, T are powers of 1024
 *     zone = a                optional
 *     speed = 1.0             optional, relative
 *
 *     [hosts gpu]             several alike: gpu-1, gpu-2, ..
 *     count = 32
 *     memory = 96G
 *     zones = a, b, c         optional: in turn
 *     speed = 1.3
 *
 * Lines that begin with # or ; are comments. */
#ifndef EX_FLEET_HOSTFILE_H
#define EX_FLEET_HOSTFILE_H

#include "fleet/planner.h"

#define EX_HOSTFILE_BYTES_MAX (1 << 20)
#define EX_HOSTFILE_NAME_MAX  64 /* of a host or zone, the NUL included */
#define EX_HOSTFILE_ZONES_MAX 64 /* of one section */

struct ex_hosts {
	struct ex_planner_host *v; /* names and zones are the list's own */
	size_t n, cap;
};

/* At most EX_PLANNER_HOSTS_MAX hosts. -EINVAL: err names file, line and key. Freed with ex_hosts_done. [any] */
int ex_hostfile_parse(const char *name, const char *text, size_t n, struct ex_err *err, struct ex_hosts *ret);
int ex_hostfile_read(const char *path, struct ex_err *err, struct ex_hosts *ret);
void ex_hosts_done(struct ex_hosts *h);

#endif
