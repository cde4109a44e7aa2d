/* SPDX-License-Identifier: Apache-2.0 */
/* Status codes and -errno. Layer L1. */
#include "net/status.h"

#include "base/macro.h"
#include <errno.h>
#include <grpc/status.h>

static_assert((int)EX_STATUS_UNAUTHENTICATED == (int)GRPC_STATUS_UNAUTHENTICATED, "the codes are gRPC's");
static_assert((int)EX_STATUS_FAILED_PRECONDITION == (int)GRPC_STATUS_FAILED_PRECONDITION, "the codes are gRPC's");

/* By code: its name, and the -errno that it becomes on the other side. */
static const struct {
	const char *name;
	int code;
} statuses[] = {
	[EX_STATUS_OK] = {"OK", 0},
	[EX_STATUS_CANCELLED] = {"CANCELLED", -ECANCELED},
	[EX_STATUS_UNKNOWN] = {"UNKNOWN", -EREMOTEIO},
	[EX_STATUS_INVALID_ARGUMENT] = {"INVALID_ARGUMENT", -EINVAL},
	[EX_STATUS_DEADLINE_EXCEEDED] = {"DEADLINE_EXCEEDED", -ETIMEDOUT},
	[EX_STATUS_NOT_FOUND] = {"NOT_FOUND", -ENOENT},
	[EX_STATUS_ALREADY_EXISTS] = {"ALREADY_EXISTS", -EEXIST},
	[EX_STATUS_PERMISSION_DENIED] = {"PERMISSION_DENIED", -EACCES},
	[EX_STATUS_RESOURCE_EXHAUSTED] = {"RESOURCE_EXHAUSTED", -ENOBUFS},
	[EX_STATUS_FAILED_PRECONDITION] = {"FAILED_PRECONDITION", -EPROTO},
	[EX_STATUS_ABORTED] = {"ABORTED", -EBUSY},
	[EX_STATUS_OUT_OF_RANGE] = {"OUT_OF_RANGE", -ERANGE},
	[EX_STATUS_UNIMPLEMENTED] = {"UNIMPLEMENTED", -ENOSYS},
	[EX_STATUS_INTERNAL] = {"INTERNAL", -EIO},
	[EX_STATUS_UNAVAILABLE] = {"UNAVAILABLE", -ENOTCONN},
	[EX_STATUS_DATA_LOSS] = {"DATA_LOSS", -EBADMSG},
	[EX_STATUS_UNAUTHENTICATED] = {"UNAUTHENTICATED", -EPERM},
};

const char *ex_status_name(int status)
{
	return status >= 0 && (size_t)status < EX_ARRAY_LEN(statuses) ? statuses[status].name : "?";
}

int ex_status_to_errno(int status)
{
	return status >= 0 && (size_t)status < EX_ARRAY_LEN(statuses) ? statuses[status].code : -EREMOTEIO;
}

int ex_status_from_errno(int code)
{
	switch (-code) {
	case EBADMSG:
	case EILSEQ:
		return EX_STATUS_INVALID_ARGUMENT;
	case EPERM:
		return EX_STATUS_PERMISSION_DENIED;
	case ENOMEM:
	case ENOSPC:
	case EMSGSIZE:
	case E2BIG:
		return EX_STATUS_RESOURCE_EXHAUSTED;
	case EOVERFLOW:
		return EX_STATUS_OUT_OF_RANGE;
	case ENOTSUP:
		return EX_STATUS_UNIMPLEMENTED;
	case EAGAIN:
	case ESHUTDOWN:
	case EPIPE:
	case EHOSTUNREACH:
	case ECONNREFUSED:
	case ECONNRESET:
		return EX_STATUS_UNAVAILABLE;
	default:
		break;
	}
	for (size_t i = 0; i < EX_ARRAY_LEN(statuses); i++)
		if (statuses[i].code == code)
			return (int)i;
	return EX_STATUS_UNKNOWN;
}
