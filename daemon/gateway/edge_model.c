/* SPDX-License-Identifier: Apache-2.0 */
/* Models as answers know them. Layer L4. */
#include "gateway/edge_model.h"

#include "base/mem.h"
#include "engine/text.h"
#include <stdatomic.h>
#include <stdio.h>

struct ex_edge_model {
	atomic_uint n_refs;
	char fingerprint[EX_FINGERPRINT_MAX];
	struct ex_json_vocab *json;
};

int ex_edge_model_new(const struct ex_edge_model_opts *o, struct ex_err *err, struct ex_edge_model **ret)
{
	struct ex_json_vocab_opts v = {.tokenizer = o->tokenizer, .eos = o->eos, .n_eos = o->n_eos};
	struct ex_edge_model *m = ex_calloc(1, sizeof *m);
	if (!m)
		return ex_err_errno(err, -ENOMEM, "cannot serve the model over HTTP");
	atomic_init(&m->n_refs, 1);
	snprintf(m->fingerprint, sizeof m->fingerprint, "fp_%.10s", o->digest);
	ex_text_think_ids(o->tokenizer, o->chat, &v.think_open, &v.think_close);
	int rc = ex_json_vocab_new(&v, err, &m->json);
	if (rc < 0 && rc != -ENOTSUP) { /* without what JSON needs all else is served */
		free(m);
		return rc;
	}
	*ret = m;
	return 0;
}

struct ex_edge_model *ex_edge_model_ref(struct ex_edge_model *m)
{
	atomic_fetch_add_explicit(&m->n_refs, 1, memory_order_relaxed);
	return m;
}

struct ex_edge_model *ex_edge_model_unref(struct ex_edge_model *m)
{
	/* release what this holder did; the last one acquires it before freeing */
	if (m && atomic_fetch_sub_explicit(&m->n_refs, 1, memory_order_acq_rel) == 1) {
		ex_json_vocab_free(m->json);
		free(m);
	}
	return NULL;
}

const char *ex_edge_model_fingerprint(const struct ex_edge_model *m)
{
	return m->fingerprint;
}

const struct ex_json_vocab *ex_edge_model_json(const struct ex_edge_model *m)
{
	return m->json;
}
