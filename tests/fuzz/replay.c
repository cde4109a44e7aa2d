/* SPDX-License-Identifier: Apache-2.0 */
/* main() of a fuzz target where there is no libFuzzer: runs every file of the corpus directories given as arguments
 * (default: $srcdir/tests/fuzz/corpus/<program name>), each file whole, cut short at many places and with single bytes
 * changed. */
#include "fuzz.h"

#include "base/err.h"
#include "base/str.h"
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define FILE_BYTES_MAX (1 << 20)
#define DAMAGES_MAX    200 /* of each kind, a file */

/* The input gets a block of its own size, so that reading past its end is seen by a sanitizer. */
static void run_copy(const char *data, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1);
	if (!copy)
		abort();
	memcpy(copy, data, n);
	LLVMFuzzerTestOneInput(copy, n);
	free(copy);
}

static void run_damaged(char *data, size_t n)
{
	static const uint8_t flip[] = {0x01, 0x20, 0x80, 0xff};
	size_t step = n / DAMAGES_MAX + 1;
	for (size_t i = 0; i < n; i += step) {
		char kept = data[i];
		run_copy(data, i);
		data[i] = (char)(kept ^ flip[i / step % sizeof flip]);
		run_copy(data, n);
		data[i] = kept;
	}
}

/* Number of files run; exits on a directory that cannot be read, as a test that ran nothing must not pass. */
static unsigned run_dir(const char *dir)
{
	char path[PATH_MAX];
	unsigned n_files = 0;
	DIR *d = opendir(dir);
	if (!d) {
		perror(dir);
		exit(1);
	}
	for (const struct dirent *e; (e = readdir(d));) {
		struct ex_err err = EX_ERR_INIT;
		EX_CLEANUP(ex_freep) char *text = NULL;
		size_t n;
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
		if (ex_read_file(path, FILE_BYTES_MAX, &err, &text, &n) < 0) {
			fprintf(stderr, "%s\n", ex_err_text(&err));
			exit(1);
		}
		run_copy(text, n);
		run_damaged(text, n);
		n_files++;
	}
	closedir(d);
	return n_files;
}

int main(int argc, char **argv)
{
	char dir[PATH_MAX];
	unsigned n = 0;
	for (int i = 1; i < argc; i++)
		n += run_dir(argv[i]);
	if (argc < 2) {
		const char *src = getenv("srcdir");
		snprintf(dir, sizeof dir, "%s/tests/fuzz/corpus/%s", src ? src : ".", program_invocation_short_name);
		n = run_dir(dir);
	}
	printf("%s: %u files\n", program_invocation_short_name, n);
	return n ? 0 : 1;
}
