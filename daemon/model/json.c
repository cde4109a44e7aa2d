/* SPDX-License-Identifier: Apache-2.0 */
/* Reading JSON objects key by key. Layer L1. */
#include "model/json.h"

#include <stdio.h>

#define JSON_TEXT_MAX 80 /* of a value in a message */

int ex_json_parse_object(const char *name, const char *text, size_t n, struct ex_err *err, json_t **ret)
{
	json_error_t why;
	json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
	if (!root)
		return ex_err_set(err, -EINVAL, "%s: line %d, column %d: %s", name, why.line, why.column, why.text);
	if (!json_is_object(root)) {
		json_decref(root);
		return ex_err_set(err, -EINVAL, "%s: a JSON object is needed", name);
	}
	*ret = root;
	return 0;
}

int ex_json_refuse(const struct ex_json_reader *r, const char *key, const char *why)
{
	return ex_err_set(r->err, -EINVAL, "%s: key '%s%s' %s", r->name, r->prefix, key, why);
}

int ex_json_refuse_value(const struct ex_json_reader *r, const char *key, const json_t *value, const char *why)
{
	char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS);
	int rc = ex_err_set(r->err, -EINVAL, "%s: key '%s%s' is %.*s: %s", r->name, r->prefix, key, JSON_TEXT_MAX,
		text ? text : "?", why);
	free(text);
	return rc;
}

int ex_json_take_u32(const struct ex_json_reader *r, const char *key, uint32_t min, uint32_t max, uint32_t *ret)
{
	json_t *v = json_object_get(r->obj, key);
	json_int_t i = json_integer_value(v);
	char why[80];
	if (!v)
		return ex_json_refuse(r, key, "is missing");
	if (!json_is_integer(v) || i < (json_int_t)min || i > (json_int_t)max) {
		snprintf(why, sizeof why, "an integer from %u to %u is needed", min, max);
		return ex_json_refuse_value(r, key, v, why);
	}
	*ret = (uint32_t)i;
	json_object_del(r->obj, key);
	return 0;
}

int ex_json_take_f32(const struct ex_json_reader *r, const char *key, float min, float max, float *ret)
{
	json_t *v = json_object_get(r->obj, key);
	double d = json_number_value(v);
	char why[80];
	if (!v)
		return ex_json_refuse(r, key, "is missing");
	if (!json_is_number(v) || !(d >= (double)min && d <= (double)max)) {
		snprintf(why, sizeof why, "a number from %g to %g is needed", (double)min, (double)max);
		return ex_json_refuse_value(r, key, v, why);
	}
	*ret = (float)d;
	json_object_del(r->obj, key);
	return 0;
}

int ex_json_take_bool(const struct ex_json_reader *r, const char *key, bool *ret)
{
	json_t *v = json_object_get(r->obj, key);
	if (!v)
		return 0;
	if (!json_is_boolean(v))
		return ex_json_refuse_value(r, key, v, "true or false is needed");
	*ret = json_is_true(v);
	json_object_del(r->obj, key);
	return 0;
}

int ex_json_take_fixed(const struct ex_json_reader *r, const char *key, const char *allowed)
{
	json_t *v = json_object_get(r->obj, key);
	char why[80];
	if (!v)
		return 0;
	json_t *want = json_loads(allowed, JSON_DECODE_ANY, NULL);
	if (!want)
		return ex_err_errno(r->err, -ENOMEM, "%s", r->name);
	bool same = json_equal(v, want) ||
		    (json_is_number(v) && json_number_value(v) == json_number_value(want) && json_is_number(want));
	json_decref(want);
	if (!same) {
		snprintf(why, sizeof why, "only %s is understood", allowed);
		return ex_json_refuse_value(r, key, v, why);
	}
	json_object_del(r->obj, key);
	return 0;
}

bool ex_json_has_value(const struct ex_json_reader *r, const char *key)
{
	json_t *v = json_object_get(r->obj, key);
	if (v && json_is_null(v))
		json_object_del(r->obj, key);
	return v && !json_is_null(v);
}
