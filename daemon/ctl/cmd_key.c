/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl key create, list, revoke. */
#include "ctl/ctl.h"

#include "expertd/accounts.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const struct ctl_opt ctl_opts_key_create[] = {
	{"label", "TEXT", "what it is for"},
	{NULL, NULL, NULL},
};

int ctl_cmd_key_create(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__CreateKeyRequest q = EXPERTD__V1__CREATE_KEY_REQUEST__INIT;
	Expertd__V1__CreateKeyReply *r;
	(void)argc;
	q.account = argv[0];
	q.label = (char *)ctl_str(c, "label", "");
	int rc = ctl_ask(c, CTL_ACCOUNTS "CreateKey", &q.base, &expertd__v1__create_key_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	printf("%s\n", r->secret);
	if (c->tty)
		fprintf(stderr, "key %lld of account %s: note it now, it is not shown again\n", (long long)r->key->id,
			r->key->account);
	expertd__v1__create_key_reply__free_unpacked(r, NULL);
	return CTL_OK;
}

int ctl_cmd_key_list(struct ctl *c, int argc, char **argv)
{
	static const char *const heads[] = {"ID", "ACCOUNT", "KEY", "LABEL", "STATE"};
	Expertd__V1__ListKeysRequest q = EXPERTD__V1__LIST_KEYS_REQUEST__INIT;
	Expertd__V1__ListKeysReply *r;
	struct ctl_table t;
	q.account = argc ? argv[0] : "";
	int rc = ctl_ask(c, CTL_ACCOUNTS "ListKeys", &q.base, &expertd__v1__list_keys_reply__descriptor, &r);
	if (rc || !r)
		return rc;
	ctl_table_init(&t, EX_ARRAY_LEN(heads), heads);
	for (size_t i = 0; i < r->n_keys; i++) {
		ctl_table_cell(&t, "%lld", (long long)r->keys[i]->id);
		ctl_table_cell(&t, "%s", r->keys[i]->account);
		ctl_table_cell(&t, "sk-..%s", r->keys[i]->tail);
		ctl_table_cell(&t, "%s", *r->keys[i]->label ? r->keys[i]->label : "-");
		ctl_table_cell(&t, "%s", r->keys[i]->revoked_us ? "revoked" : "good");
	}
	ctl_table_print(&t);
	expertd__v1__list_keys_reply__free_unpacked(r, NULL);
	return CTL_OK;
}

int ctl_cmd_key_revoke(struct ctl *c, int argc, char **argv)
{
	Expertd__V1__RevokeKeyRequest q = EXPERTD__V1__REVOKE_KEY_REQUEST__INIT;
	Expertd__V1__Key *r;
	char *end;
	(void)argc;
	q.id = strtoll(argv[0], &end, 10);
	if (*end || q.id <= 0)
		return ctl_fail(CTL_USAGE, "'%s' is no number of a key: see 'expertctl key list'", argv[0]);
	int rc = ctl_ask(c, CTL_ACCOUNTS "RevokeKey", &q.base, &expertd__v1__key__descriptor, &r);
	if (rc || !r)
		return rc;
	printf("key %lld (sk-..%s) of account %s is revoked\n", (long long)r->id, r->tail, r->account);
	expertd__v1__key__free_unpacked(r, NULL);
	return CTL_OK;
}
