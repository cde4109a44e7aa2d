/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a safetensors file: refused with a message, or tensors that lie inside it, every byte readable. */
#include "fuzz.h"

#include "model/safetensors.h"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void read_all(const struct ex_safetensors *s)
{
	for (size_t i = 0; i < ex_safetensors_count(s); i++) {
		const struct ex_tensor *t = ex_safetensors_at(s, i);
		assert(ex_safetensors_find(s, t->name) == t);
		assert(ex_safetensors_maps(s, t->data, t->bytes));
		for (uint64_t k = 0; k < t->bytes; k++)
			(void)((const volatile uint8_t *)t->data)[k];
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_safetensors_closep) struct ex_safetensors *s = NULL;
	EX_CLEANUP(ex_closep) int fd = memfd_create("fuzz", MFD_CLOEXEC);
	char path[64];
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		return 0;
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (ex_safetensors_open_file(path, &err, &s) < 0)
		assert(err.text[0]);
	else
		read_all(s);
	return 0;
}
