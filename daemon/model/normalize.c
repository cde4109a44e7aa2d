/* SPDX-License-Identifier: Apache-2.0 */
/* Unicode normal forms, where tokenizer.json asks for them. Layer L1. */
#include "model/tokenizer_impl.h"

int ex_normalize(
	const struct ex_tokenizer *t, const char *text, size_t n, struct ex_err *err, char **ret, size_t *ret_n)
{
	EX_CLEANUP(ex_freep) char *from = NULL;
	size_t n_from = n;
	for (unsigned i = 0; i < t->n_normalizers; i++) {
		utf8proc_uint8_t *to = NULL;
		utf8proc_ssize_t n_to = utf8proc_map((const utf8proc_uint8_t *)(from ? from : text),
			(utf8proc_ssize_t)n_from, &to, t->normalizer[i]);
		if (n_to < 0)
			return ex_err_set(err, n_to == UTF8PROC_ERROR_NOMEM ? -ENOMEM : -EILSEQ, "normalizer %u: %s", i,
				utf8proc_errmsg(n_to));
		free(from);
		from = (char *)to;
		n_from = (size_t)n_to;
	}
	*ret = EX_TAKE(from);
	*ret_n = n_from;
	return 0;
}
