/* SPDX-License-Identifier: Apache-2.0 */
/* gRPC status codes, and how they and -errno become each other. Layer L1. */
#ifndef EX_NET_STATUS_H
#define EX_NET_STATUS_H

enum ex_status {
	EX_STATUS_OK = 0,
	EX_STATUS_CANCELLED = 1,
	EX_STATUS_UNKNOWN = 2,
	EX_STATUS_INVALID_ARGUMENT = 3,
	EX_STATUS_DEADLINE_EXCEEDED = 4,
	EX_STATUS_NOT_FOUND = 5,
	EX_STATUS_ALREADY_EXISTS = 6,
	EX_STATUS_PERMISSION_DENIED = 7,
	EX_STATUS_RESOURCE_EXHAUSTED = 8,
	EX_STATUS_FAILED_PRECONDITION = 9,
	EX_STATUS_ABORTED = 10,
	EX_STATUS_OUT_OF_RANGE = 11,
	EX_STATUS_UNIMPLEMENTED = 12,
	EX_STATUS_INTERNAL = 13,
	EX_STATUS_UNAVAILABLE = 14,
	EX_STATUS_DATA_LOSS = 15,
	EX_STATUS_UNAUTHENTICATED = 16,
};

/* "UNAVAILABLE"; "?" for a code that is not one. [any] */
const char *ex_status_name(int status);
/* The code that tells a peer about -errno; UNKNOWN when nothing fits. [any] */
int ex_status_from_errno(int code);
/* 0 for OK, else the -errno that stands for the code: UNAVAILABLE is -ENOTCONN, UNIMPLEMENTED -ENOSYS, ... [any] */
int ex_status_to_errno(int status);

#endif
