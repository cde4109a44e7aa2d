/* SPDX-License-Identifier: Apache-2.0 */
/* A member as JSON, and back. Layer L2. */
#include "fleet/record.h"

#include "base/shard.h"
#include "model/json.h"
#include <ctype.h>
#include <string.h>

#define GROUPS_MAX 4096 /* as [model] expert_groups */

void ex_record_print(const struct ex_member *m, struct ex_str *out)
{
	json_t *o = json_pack("{ss ss ss ss ss ss ss ss ss sI sI}", "name", m->name, "address", m->address, "zone",
		m->zone, "machine", m->machine, "version", m->version, "plugin", m->plugin, "identity", m->identity,
		"model_digest", m->model_digest, "shards", m->shards, "expert_groups", (json_int_t)m->expert_groups,
		"memory_bytes", (json_int_t)EX_MIN(m->memory_bytes, (uint64_t)INT64_MAX));
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	if (text)
		ex_str_add(out, text);
	else
		out->oom = true;
	free(text);
	json_decref(o);
}

/* --- reading --------------------------------------------------------------------------------------------- */

/* Copies a text of at most size - 1 bytes of printable ASCII. A missing key is "". */
static int take_text(const struct ex_json_reader *r, const char *key, size_t size, char *ret)
{
	json_t *v = json_object_get(r->obj, key);
	if (!v) {
		*ret = '\0';
		return 0;
	}
	size_t n = json_string_length(v);
	const char *s = json_string_value(v);
	if (!s)
		return ex_json_refuse_value(r, key, v, "a text is needed");
	if (n >= size)
		return ex_err_set(r->err, -EINVAL, "%s: key '%s' has %zu bytes, at most %zu are allowed", r->name, key,
			n, size - 1);
	for (size_t i = 0; i < n; i++)
		if (s[i] < ' ' || s[i] > '~')
			return ex_json_refuse(r, key, "has other than printable ASCII characters");
	memcpy(ret, s, n + 1);
	return 0;
}

static bool is_name(const char *s)
{
	static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
	return isalnum((unsigned char)*s) && s[strspn(s, ok)] == '\0';
}

static bool is_hex(const char *s, size_t n)
{
	return strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

static int take_address(const struct ex_json_reader *r, char ret[static EX_MEMBER_ADDRESS_MAX])
{
	struct ex_err why = EX_ERR_INIT;
	struct ex_addr a;
	int rc = take_text(r, "address", EX_MEMBER_ADDRESS_MAX, ret);
	if (rc < 0)
		return rc;
	if (ex_addr_parse(ret, &why, &a) < 0)
		return ex_json_refuse(r, "address", ex_err_text(&why));
	return a.port ? 0 : ex_json_refuse(r, "address", "has port 0");
}

static int take_memory(const struct ex_json_reader *r, uint64_t *ret)
{
	json_t *v = json_object_get(r->obj, "memory_bytes");
	if (v && (!json_is_integer(v) || json_integer_value(v) < 0))
		return ex_json_refuse_value(r, "memory_bytes", v, "a number of bytes is needed");
	*ret = v ? (uint64_t)json_integer_value(v) : 0;
	return 0;
}

static int check_shards(const struct ex_json_reader *r, const char *shards)
{
	char glob[EX_SHARD_NAME_MAX * 2];
	for (const char *s = shards + strspn(shards, " "); *s; s += strspn(s, " ")) {
		size_t n = strcspn(s, " ");
		if (n >= sizeof glob)
			return ex_json_refuse(r, "shards", "has a glob that is too long");
		memcpy(glob, s, n);
		glob[n] = '\0';
		if (ex_shard_glob_check(glob) < 0)
			return ex_err_set(r->err, -EINVAL,
				"%s: key 'shards' has '%s', which is no glob over LAYER/RANGE", r->name, glob);
		s += n;
	}
	return 0;
}

static int take_texts(const struct ex_json_reader *r, struct ex_member *m, char *shards)
{
	const struct {
		const char *key;
		char *to;
		size_t size;
	} texts[] = {
		{"name", m->name, EX_MEMBER_NAME_MAX},
		{"zone", m->zone, sizeof m->zone},
		{"machine", m->machine, sizeof m->machine},
		{"version", m->version, sizeof m->version},
		{"plugin", m->plugin, sizeof m->plugin},
		{"identity", m->identity, sizeof m->identity},
		{"model_digest", m->model_digest, sizeof m->model_digest},
		{"shards", shards, EX_MEMBER_SHARDS_MAX},
	};
	for (size_t i = 0; i < EX_ARRAY_LEN(texts); i++) {
		int rc = take_text(r, texts[i].key, texts[i].size, texts[i].to);
		if (rc < 0)
			return rc;
	}
	if (strcmp(m->name, r->name) != 0)
		return ex_err_set(r->err, -EINVAL, "%s: key 'name' says '%s'", r->name, m->name);
	if (*m->zone && !is_name(m->zone))
		return ex_json_refuse(r, "zone", "is no name");
	if (*m->machine && !is_hex(m->machine, sizeof m->machine - 1))
		return ex_json_refuse(r, "machine", "is not 32 hexadecimal digits");
	if (!is_hex(m->model_digest, sizeof m->model_digest - 1))
		return ex_json_refuse(r, "model_digest", "is not 64 hexadecimal digits");
	if (*m->identity && strcmp(m->identity, EX_IDENTITY_MIXED) != 0 &&
		!is_hex(m->identity, EX_IDENTITY_KIND_DIGITS))
		return ex_json_refuse(r, "identity", "is neither 16 hexadecimal digits nor " EX_IDENTITY_MIXED);
	return check_shards(r, shards);
}

int ex_record_parse(const char *name, const void *value, size_t n, struct ex_err *err, struct ex_member *ret)
{
	struct ex_member m = {0};
	json_t *o;
	if (strlen(name) >= EX_MEMBER_NAME_MAX || !is_name(name))
		return ex_err_set(err, -EINVAL, "'%.80s' is no name of a host", name);
	if (n > EX_RECORD_BYTES_MAX)
		return ex_err_set(err, -EFBIG, "%s: %zu bytes, at most %d are allowed", name, n, EX_RECORD_BYTES_MAX);
	EX_CLEANUP(ex_freep) char *shards = malloc(EX_MEMBER_SHARDS_MAX);
	if (!shards)
		return ex_err_errno(err, -ENOMEM, "%s", name);
	int rc = ex_json_parse_object(name, value, n, err, &o);
	if (rc < 0)
		return rc;
	const struct ex_json_reader r = {.name = name, .prefix = "", .obj = o, .err = err};
	rc = take_texts(&r, &m, shards);
	if (rc == 0)
		rc = take_address(&r, m.address);
	if (rc == 0)
		rc = take_memory(&r, &m.memory_bytes);
	if (rc == 0)
		rc = ex_json_take_u32(&r, "expert_groups", 1, GROUPS_MAX, &m.expert_groups);
	json_decref(o);
	if (rc < 0)
		return rc;
	char *exact = realloc(shards, strlen(shards) + 1);
	m.shards = exact ? exact : shards;
	shards = NULL;
	*ret = m;
	return 0;
}
