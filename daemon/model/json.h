/* SPDX-License-Identifier: Apache-2.0 */
/* Reading JSON objects key by key: each key that is read is taken out, so that what is left is what nobody understood.
 * Layer L1. [any], one thread an object. All return 0 or a negative errno with a message that names file, key and
 * value; unless said otherwise a failed read leaves the object as it was. */
#ifndef EX_MODEL_JSON_H
#define EX_MODEL_JSON_H

#include "base/err.h"
#include <jansson.h>
#include <stdbool.h>

/* One object being read; everything borrowed. */
struct ex_json_reader {
	const char *name;   /* of the file, for messages */
	const char *prefix; /* the object's place in it: "", "rope_scaling." */
	json_t *obj;
	struct ex_err *err;
};

/* text[0..n) → object, duplicate keys refused. json_decref *ret. */
int ex_json_parse_object(const char *name, const char *text, size_t n, struct ex_err *err, json_t **ret);

/* -EINVAL: "FILE: key 'KEY' WHY". */
int ex_json_refuse(const struct ex_json_reader *r, const char *key, const char *why);
/* -EINVAL: "FILE: key 'KEY' is VALUE: WHY", the value in JSON, cut short. */
int ex_json_refuse_value(const struct ex_json_reader *r, const char *key, const json_t *value, const char *why);

/* An integer or number in min..max; a missing key is refused. */
int ex_json_take_u32(const struct ex_json_reader *r, const char *key, uint32_t min, uint32_t max, uint32_t *ret);
int ex_json_take_f32(const struct ex_json_reader *r, const char *key, float min, float max, float *ret);
/* A missing key leaves *ret as it is. */
int ex_json_take_bool(const struct ex_json_reader *r, const char *key, bool *ret);
/* A key whose only understood value is `allowed`, a JSON text; a missing key is fine. */
int ex_json_take_fixed(const struct ex_json_reader *r, const char *key, const char *allowed);
/* True when the key is there and not null; a null is taken out. */
bool ex_json_has_value(const struct ex_json_reader *r, const char *key);

#endif
