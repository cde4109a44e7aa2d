/* SPDX-License-Identifier: Apache-2.0 */
/* Server reflection from the descriptor set of proto/. Layer L1.
 *
 * v1 and v1alpha are the same messages under two package names: their bytes are equal, so v1's types serve both. */
#include "net/service.h"

#include "base/mem.h"
#include "base/str.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include <stdio.h>
#include <string.h>

#define QUEUED_BYTES_MAX (1u << 20) /* answers that wait for a client that does not read */

extern const unsigned char ex_descriptors[]; /* a serialised google.protobuf.FileDescriptorSet, made by protoc */
extern const size_t ex_descriptors_size;

/* Field numbers of google/protobuf/descriptor.proto. */
enum {
	SET_FILE = 1,
	FILE_NAME = 1,
	FILE_PACKAGE = 2,
	FILE_MESSAGE = 4,
	FILE_ENUM = 5,
	FILE_SERVICE = 6,
	FILE_EXTENSION = 7,
	ANY_NAME = 1, /* of a message, enum, service or extension */
};

typedef Grpc__Reflection__V1__ServerReflectionRequest request;
typedef Grpc__Reflection__V1__ServerReflectionResponse response;

struct span {
	const uint8_t *at;
	size_t n;
};

struct ex_reflection {
	const struct ex_service_list *services;
};

/* --- reading descriptors: our own build made them, so they are well-formed --------------------------------------- */

static uint64_t take_varint(struct span *s)
{
	uint64_t v = 0;
	for (unsigned shift = 0; s->n && shift < 64; shift += 7) {
		uint8_t b = *s->at++;
		s->n--;
		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80))
			break;
	}
	return v;
}

/* The next length-prefixed field `number` in s, which moves behind it. False: no more. */
static bool next_field(struct span *s, unsigned number, struct span *ret)
{
	while (s->n) {
		uint64_t key = take_varint(s);
		assert((key & 7) == PROTOBUF_C_WIRE_TYPE_VARINT || (key & 7) == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED);
		uint64_t n = take_varint(s);
		if ((key & 7) == PROTOBUF_C_WIRE_TYPE_VARINT)
			continue;
		assert(n <= s->n);
		*ret = (struct span){s->at, n};
		s->at += n;
		s->n -= n;
		if (key >> 3 == number)
			return true;
	}
	return false;
}

static struct span field_of(struct span s, unsigned number)
{
	struct span v = {0};
	next_field(&s, number, &v);
	return v;
}

static bool equals(struct span s, const char *text)
{
	return s.n == strlen(text) && !memcmp(s.at, text, s.n);
}

/* Is `symbol` "package.name", or something inside it ("package.name.Method")? */
static bool covers(struct span package, struct span name, const char *symbol)
{
	size_t n = strlen(symbol);
	if (package.n) {
		if (n <= package.n || memcmp(symbol, package.at, package.n) || symbol[package.n] != '.')
			return false;
		symbol += package.n + 1;
		n -= package.n + 1;
	}
	return n >= name.n && !memcmp(symbol, name.at, name.n) && (n == name.n || symbol[name.n] == '.');
}

static bool file_has_symbol(struct span file, const char *symbol)
{
	static const unsigned kinds[] = {FILE_MESSAGE, FILE_ENUM, FILE_SERVICE, FILE_EXTENSION};
	struct span package = field_of(file, FILE_PACKAGE), one;
	for (size_t i = 0; i < EX_ARRAY_LEN(kinds); i++)
		for (struct span rest = file; next_field(&rest, kinds[i], &one);)
			if (covers(package, field_of(one, ANY_NAME), symbol))
				return true;
	return false;
}

static bool find_file(const char *name, const char *symbol, struct span *ret)
{
	struct span set = {ex_descriptors, ex_descriptors_size};
	while (next_field(&set, SET_FILE, ret))
		if (name ? equals(field_of(*ret, FILE_NAME), name) : file_has_symbol(*ret, symbol))
			return true;
	return false;
}

/* --- answers ----------------------------------------------------------------------------------------------------- */

static void send_response(struct ex_rpc *rpc, const response *r)
{
	size_t queued = ex_rpc_queued_bytes(rpc);
	if (queued > QUEUED_BYTES_MAX) {
		char text[96];
		snprintf(text, sizeof text, "%zu bytes of answers wait, at most %u may: the client does not read",
			queued, QUEUED_BYTES_MAX);
		ex_rpc_abort(rpc, EX_STATUS_RESOURCE_EXHAUSTED, text);
		return;
	}
	struct ex_out *o = ex_out_pack(&r->base);
	if (o)
		ex_rpc_send(rpc, o);
	else
		ex_rpc_finish(rpc, EX_STATUS_RESOURCE_EXHAUSTED, "out of memory");
}

static void answer_error(struct ex_rpc *rpc, response *r, int status, const char *text)
{
	Grpc__Reflection__V1__ErrorResponse e = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
	e.error_code = status;
	e.error_message = (char *)text;
	r->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
	r->error_response = &e;
	send_response(rpc, r);
}

static void answer_file(struct ex_rpc *rpc, response *r, const char *name, const char *symbol)
{
	struct span file;
	if (!find_file(name, symbol, &file)) {
		char text[256];
		snprintf(text, sizeof text, "%s not found: %s", name ? "file" : "symbol", name ? name : symbol);
		answer_error(rpc, r, EX_STATUS_NOT_FOUND, text);
		return;
	}
	ProtobufCBinaryData bytes = {.len = file.n, .data = (uint8_t *)file.at};
	Grpc__Reflection__V1__FileDescriptorResponse f = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
	f.n_file_descriptor_proto = 1;
	f.file_descriptor_proto = &bytes;
	r->message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
	r->file_descriptor_response = &f;
	send_response(rpc, r);
}

static void answer_services(struct ex_rpc *rpc, response *r, const struct ex_service_list *services)
{
	Grpc__Reflection__V1__ServiceResponse one[EX_SERVER_METHODS_MAX], *list[EX_SERVER_METHODS_MAX];
	for (size_t i = 0; i < services->n; i++) {
		grpc__reflection__v1__service_response__init(&one[i]);
		one[i].name = (char *)services->name[i];
		list[i] = &one[i];
	}
	Grpc__Reflection__V1__ListServiceResponse l = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
	l.n_service = services->n;
	l.service = list;
	r->message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
	r->list_services_response = &l;
	send_response(rpc, r);
}

static void on_message(struct ex_rpc *rpc, struct ex_msg *m, void *ctx)
{
	const struct ex_reflection *f = ctx;
	ProtobufCMessage *p = ex_msg_unpack(m, &grpc__reflection__v1__server_reflection_request__descriptor);
	ex_msg_free(m);
	if (!p) {
		ex_rpc_finish(rpc, EX_STATUS_INVALID_ARGUMENT, "malformed ServerReflectionRequest");
		return;
	}
	request *q = (request *)p;
	response r = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
	r.valid_host = q->host;
	r.original_request = q;
	switch (q->message_request_case) {
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
		answer_services(rpc, &r, f->services);
		break;
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
		answer_file(rpc, &r, q->file_by_filename, NULL);
		break;
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
		answer_file(rpc, &r, NULL, q->file_containing_symbol);
		break;
	default: /* proto3 has no extensions to tell about */
		answer_error(rpc, &r, EX_STATUS_NOT_FOUND, "no such extension");
		break;
	}
	protobuf_c_message_free_unpacked(p, NULL);
}

static void on_half_close(struct ex_rpc *rpc, void *ctx)
{
	(void)ctx;
	ex_rpc_finish(rpc, EX_STATUS_OK, NULL);
}

void ex_reflection_methods(struct ex_reflection *r, int loop_i, struct ex_method ret[static EX_REFLECTION_METHODS])
{
	ret[0] = ret[1] = (struct ex_method){.loop_i = loop_i,
		.message_bytes_max = 64 << 10,
		.message = on_message,
		.half_close = on_half_close,
		.ctx = r};
	ret[0].path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
	ret[1].path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
}

int ex_reflection_new(const struct ex_service_list *services, struct ex_reflection **ret)
{
	struct ex_reflection *r = ex_calloc(1, sizeof *r);
	if (!r)
		return -ENOMEM;
	r->services = services;
	*ret = r;
	return 0;
}

struct ex_reflection *ex_reflection_free(struct ex_reflection *r)
{
	free(r);
	return NULL;
}
