/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the published set: refused with a message, or entries that the rest may trust. */
#include "fuzz.h"

#include "expert/published.h"
#include <stdlib.h>
#include <string.h>

#define DIGEST "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct ex_published_for f = {.model_digest = DIGEST, .base_sha256 = DIGEST, .n_groups = 8};
	struct ex_err err = EX_ERR_INIT;
	struct ex_published_entry *list = NULL;
	size_t n = 0;
	char *text = malloc(size + 1);
	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (ex_published_parse(text, &f, &err, &list, &n) < 0)
		assert(err.text[0]);
	for (size_t i = 0; i < n; i++) {
		assert(list[i].id.n_experts && strlen(list[i].plugin) < sizeof list[i].plugin);
		assert(!*list[i].sha256 || strlen(list[i].sha256) == 64);
		assert(!*list[i].identity || strlen(list[i].identity) == 64);
		assert(!i || list[i].id.layer > list[i - 1].id.layer ||
			list[i].id.first_expert > list[i - 1].id.first_expert);
	}
	free(list);
	free(text);
	return 0;
}
