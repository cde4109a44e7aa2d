/* SPDX-License-Identifier: Apache-2.0 */
/* model/safetensors: tensors are found where the header says, and every lie of a header or an index is refused with
 * file and tensor named. */
#include "model_dir.h"

#include "expertd/plugin.h"
#include "model/safetensors.h"
#include <sys/stat.h>

static const uint8_t data[64] = {1, 2, 3, 4, 5, 6, 7, 8};

/* The file's text with single quotes for double ones. */
static void write_quoted(const char *dir, const char *name, const char *header, size_t n)
{
	char text[2048];
	assert_true(strlen(header) < sizeof text);
	strcpy(text, header);
	for (char *p = text; *p; p++)
		if (*p == '\'')
			*p = '"';
	write_safetensors(dir, name, text, data, n);
}

static void test_find(void **state)
{
	(void)state;
	char dir[] = SCRATCH_DIR;
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_safetensors_closep) struct ex_safetensors *s = NULL;
	make_dir(dir);
	write_quoted(dir, "model.safetensors",
		"{'__metadata__':{'format':'pt'},'w':{'dtype':'BF16','shape':[2,3],'data_offsets':[4,16]},"
		"'b':{'dtype':'F32','shape':[1],'data_offsets':[0,4]},'e':{'dtype':'F32','shape':[0,7],'data_offsets':["
		"4,4]},"
		"'s':{'dtype':'F32','shape':[],'data_offsets':[16,20]},'x':{'dtype':'Q9','shape':[3],'data_offsets':["
		"20,21]}}  ",
		21);
	EXPECT_OK(err, ex_safetensors_open(dir, &err, &s));
	assert_int_equal(ex_safetensors_count(s), 5);
	assert_int_equal(ex_safetensors_n_files(s), 1);
	assert_string_equal(ex_safetensors_at(s, 0)->name, "b");
	assert_string_equal(ex_safetensors_at(s, 4)->name, "x");
	const struct ex_tensor *t = ex_safetensors_find(s, "w");
	assert_int_equal(t->dtype, EXPERTD_BF16);
	assert_int_equal(t->n_dims, 2);
	assert_int_equal(t->dims[0], 2);
	assert_int_equal(t->dims[1], 3);
	assert_int_equal(t->bytes, 12);
	assert_memory_equal(t->data, data + 4, 12);
	assert_true(ex_safetensors_maps(s, t->data, t->bytes));
	assert_false(ex_safetensors_maps(s, data, sizeof data));
	assert_int_equal(ex_safetensors_find(s, "s")->n_dims, 0);
	assert_int_equal(ex_safetensors_find(s, "x")->dtype, 0); /* for who needs it to refuse */
	assert_string_equal(ex_safetensors_find(s, "x")->dtype_name, "Q9");
	assert_null(ex_safetensors_find(s, "nothing"));
	remove_dir(dir);
}

#define OK_A "'a':{'dtype':'U8','shape':[4],'data_offsets':[0,4]}"

static const struct lie {
	const char *header;
	size_t n_data;
	const char *message;
} lies[] = {
	{"{'a':", 4, "header: byte"}, {"[]", 0, "header does not begin with '{'"},
	{" {" OK_A "}", 4, "header does not begin with '{'"},
	{"{'__metadata__':['pt']," OK_A "}", 4, "__metadata__ is not an object"},
	{"{'__metadata__':{'format':'pt','step':7}," OK_A "}", 4, "__metadata__ holds 'step', which is not a string"},
	{"{" OK_A "," OK_A "}", 4, "duplicate object key near '\"a\"'"}, {"{" OK_A "} x", 4, "header: byte"},
	{"{'a':7}", 4, "tensor 'a': is not described by an object"},
	{"{'a':{'shape':[4],'data_offsets':[0,4]}}", 4, "tensor 'a': dtype is missing"},
	{"{'a':{'dtype':7,'shape':[4],'data_offsets':[0,4]}}", 4, "tensor 'a': dtype is missing"},
	{"{'a':{'dtype':'U8','data_offsets':[0,4]}}", 4, "tensor 'a': shape is missing"},
	{"{'a':{'dtype':'U8','shape':4,'data_offsets':[0,4]}}", 4, "tensor 'a': shape is missing or not a list"},
	{"{'a':{'dtype':'U8','shape':[4]}}", 4, "tensor 'a': data_offsets is not a list of two"},
	{"{'a':{'dtype':'U8','shape':[4],'data_offsets':[0,4,8]}}", 4, "tensor 'a': data_offsets is not a list of two"},
	{"{'a':{'dtype':'U8','shape':[4],'data_offsets':[0,4.0]}}", 4, "tensor 'a': data_offsets holds something"},
	{"{'a':{'dtype':'U8','shape':[4],'data_offsets':[-4,0]}}", 4, "tensor 'a': data_offsets holds something"},
	{"{'a':{'dtype':'U8','shape':[-4],'data_offsets':[0,4]}}", 4, "tensor 'a': shape holds something"},
	{"{'a':{'dtype':'U8','shape':[1e3],'data_offsets':[0,4]}}", 4, "tensor 'a': shape holds something"},
	{"{'a':{'dtype':'U8','shape':[99999999999999999999],'data_offsets':[0,4]}}", 4, "header: byte"},
	{"{'a':{'dtype':'U8','shape':[1,1,1,1,1,1,1,1,4],'data_offsets':[0,4]}}", 4,
		"tensor 'a': shape has 9 dimensions"},
	{"{'a':{'dtype':'U8','shape':[4],'data_offsets':[4,0]}}", 4, "tensor 'a': data_offsets [4, 0] end before"},
	{"{'a':{'dtype':'U8','shape':[4],'data_offsets':[1,5]}}", 4,
		"tensor 'a': data_offsets [1, 5] lie past the file's 4"},
	{"{'a':{'dtype':'U8','shape':[4],'data_offsets':[9223372036854775800,9223372036854775804]}}", 4, "lie past"},
	{"{'a':{'dtype':'U8','shape':[3],'data_offsets':[0,4]}}", 4,
		"tensor 'a': shape and dtype U8 make 3 bytes, data_offsets 4"},
	{"{'a':{'dtype':'F32','shape':[4],'data_offsets':[0,4]}}", 4, "tensor 'a': shape and dtype F32 make 16 bytes"},
	{"{'a':{'dtype':'F4','shape':[7],'data_offsets':[0,4]}}", 4, "tensor 'a': shape and dtype F4"},
	{"{'a':{'dtype':'F32','shape':[4611686018427387904,4],'data_offsets':[0,0]}}", 0,
		"tensor 'a': shape overflows"},
	{"{'a':{'dtype':'F32','shape':[4294967296,4294967296],'data_offsets':[0,0]}}", 0,
		"tensor 'a': shape overflows"},
	{"{'a':{'dtype':'U8','shape':[4],'data_offsets':[0,4],'stride':[1]}}", 4,
		"tensor 'a': key 'stride' is not understood"},
	{"{'':{'dtype':'U8','shape':[4],'data_offsets':[0,4]}}", 4, "a name has 1 to 255 bytes"},
	{"{" OK_A ",'b':{'dtype':'U8','shape':[4],'data_offsets':[2,6]}}", 6,
		"tensor 'b': its data overlaps that of 'a'"},
	{"{" OK_A ",'b':{'dtype':'U8','shape':[4],'data_offsets':[0,4]}}", 4, "its data overlaps that of"},
	{"{" OK_A ",'b':{'dtype':'U8','shape':[2],'data_offsets':[6,8]}}", 8,
		"tensor 'b': 2 bytes before its data belong to no"},
	{"{'a':{'dtype':'U8','shape':[2],'data_offsets':[2,4]}}", 4,
		"tensor 'a': 2 bytes before its data belong to no"},
	{"{" OK_A "}", 9, "the last 5 bytes belong to no tensor"},
	{"{" OK_A "}", 3, "tensor 'a': data_offsets [0, 4] lie past the file's 3"}, /* cut short */
};

static void test_header_lies(void **state)
{
	(void)state;
	char dir[] = SCRATCH_DIR, path[PATH_MAX];
	make_dir(dir);
	path_in(dir, "model.safetensors", path);
	for (size_t i = 0; i < EX_ARRAY_LEN(lies); i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_safetensors *s;
		write_quoted(dir, "model.safetensors", lies[i].header, lies[i].n_data);
		if (ex_safetensors_open(dir, &err, &s) != -EINVAL)
			fail_msg("%s was taken", lies[i].header);
		if (!strstr(err.text, lies[i].message) || !strstr(err.text, path))
			fail_msg("%s: '%s' does not say '%s'", lies[i].header, err.text, lies[i].message);
	}
	remove_dir(dir);
}

/* The eight bytes of length themselves. */
static void test_length_lies(void **state)
{
	(void)state;
	static const struct {
		uint8_t bytes[12];
		size_t n;
		const char *message;
	} row[] = {
		{{0}, 0, "has 0 bytes, too few"},
		{{2, 0, 0, 0, 0, 0, 0}, 7, "has 7 bytes, too few"},
		{{0}, 8, "header does not begin with"},
		{{5, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10, "header of 5 bytes in a file of 10: the file is cut short"},
		{{0x01, 0xe1, 0xf5, 0x05}, 12, "header of 100000001 bytes, more than the 100000000 allowed"},
		{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 12,
			"header of 18446744073709551615 bytes, more than"},
	};
	char dir[] = SCRATCH_DIR;
	make_dir(dir);
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_safetensors *s;
		write_bytes(dir, "model.safetensors", row[i].bytes, row[i].n);
		assert_int_equal(ex_safetensors_open(dir, &err, &s), -EINVAL);
		if (!strstr(err.text, row[i].message))
			fail_msg("'%s' does not say '%s'", err.text, row[i].message);
	}
	remove_dir(dir);
}

static void test_no_file(void **state)
{
	(void)state;
	char dir[] = SCRATCH_DIR, path[PATH_MAX];
	struct ex_err err = EX_ERR_INIT;
	struct ex_safetensors *s;
	make_dir(dir);
	assert_int_equal(ex_safetensors_open(dir, &err, &s), -ENOENT);
	assert_non_null(strstr(err.text, "model.safetensors"));
	assert_int_equal(mkdir(path_in(dir, "model.safetensors", path), 0777), 0);
	assert_int_equal(ex_safetensors_open(dir, &err, &s), -EINVAL);
	assert_non_null(strstr(err.text, "is not a regular file"));
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	alarm(20); /* a reader that waits for a writer ends here */
	assert_int_equal(ex_safetensors_open(dir, &err, &s), -EINVAL);
	alarm(0);
	assert_non_null(strstr(err.text, "is not a regular file"));
	assert_int_equal(unlink(path), 0);
	remove_dir(dir);
}

static const char index_name[] = "model.safetensors.index.json";

static void test_index(void **state)
{
	(void)state;
	char dir[] = SCRATCH_DIR;
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_safetensors_closep) struct ex_safetensors *s = NULL;
	make_dir(dir);
	write_quoted(dir, "one", "{" OK_A "}", 4);
	write_quoted(dir, "two", "{'b':{'dtype':'U8','shape':[2],'data_offsets':[0,2]}}", 2);
	write_text(dir, index_name, "{\"metadata\": {}, \"weight_map\": {\"b\": \"two\", \"a\": \"one\"}}");
	EXPECT_OK(err, ex_safetensors_open(dir, &err, &s));
	assert_int_equal(ex_safetensors_count(s), 2);
	assert_int_equal(ex_safetensors_n_files(s), 2);
	assert_non_null(strstr(ex_safetensors_file_path(s, ex_safetensors_find(s, "a")->file), "/one"));
	assert_memory_equal(ex_safetensors_find(s, "b")->data, data, 2);
	remove_dir(dir);
}

static void test_index_lies(void **state)
{
	(void)state;
	static const struct {
		const char *index, *message;
		int rc;
	} row[] = {
		{"{\"weight_map\": {\"a\": \"one\", \"b\": \"gone\"}}", "tensor 'b' of the index: cannot open",
			-ENOENT},
		{"{\"weight_map\": {\"a\": \"one\", \"c\": \"one\"}}", "tensor 'c' is not there", -EINVAL},
		{"{\"weight_map\": {\"a\": \"one\", \"b\": \"again\"}}", "tensor 'a' is both in", -EINVAL},
		{"{\"weight_map\": {\"b\": \"one\", \"a\": \"other\"}}", "tensor 'b' is not there", -EINVAL},
		{"{\"weight_map\": {\"a\": \"../one\"}}", "'../one', which is not a file name", -EINVAL},
		{"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "'/etc/passwd', which is not a file name", -EINVAL},
		{"{\"weight_map\": {\"a\": \"..\"}}", "'..', which is not a file name", -EINVAL},
		{"{\"weight_map\": {\"a\": \"\"}}", "'', which is not a file name", -EINVAL},
		{"{\"weight_map\": {\"a\": 1}}", "tensor 'a' has no file name", -EINVAL},
		{"{\"weight_map\": {\"a\": \"one\", \"a\": \"one\"}}", "duplicate object key", -EINVAL},
		{"{\"weight_map\": []}", "key 'weight_map' is missing or not an object", -EINVAL},
		{"{}", "key 'weight_map' is missing or not an object", -EINVAL},
		{"{\"weight_map\"", "index.json: line 1", -EINVAL},
	};
	char dir[] = SCRATCH_DIR;
	make_dir(dir);
	write_quoted(dir, "one", "{" OK_A "}", 4);
	write_quoted(dir, "again", "{" OK_A ",'b':{'dtype':'U8','shape':[0],'data_offsets':[0,0]}}", 4);
	write_quoted(dir, "other", "{'b':{'dtype':'U8','shape':[0],'data_offsets':[0,0]}}", 0);
	for (size_t i = 0; i < EX_ARRAY_LEN(row); i++) {
		struct ex_err err = EX_ERR_INIT;
		struct ex_safetensors *s;
		write_text(dir, index_name, row[i].index);
		assert_int_equal(ex_safetensors_open(dir, &err, &s), row[i].rc);
		if (!strstr(err.text, row[i].message))
			fail_msg("'%s' does not say '%s'", err.text, row[i].message);
	}
	remove_dir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_find),
		cmocka_unit_test(test_header_lies),
		cmocka_unit_test(test_length_lies),
		cmocka_unit_test(test_no_file),
		cmocka_unit_test(test_index),
		cmocka_unit_test(test_index_lies),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
