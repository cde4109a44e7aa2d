/* SPDX-License-Identifier: Apache-2.0 */
/* The gateway's limits: built from [limits], their states kept over a restart. Layer L5. */
#include "core/house_int.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/config.h"
#include <fcntl.h>
#include <limits.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SAVE_NS         (10 * EX_NS_PER_S)
#define STATE_BYTES_MAX ((size_t)16 << 20)
#define STATE_FILE      "limits"

/* Without accounts: who sends another token is another client. Any token is good, so this keeps honest clients apart only. */
static bool who_by_token(void *ctx, const char *key, struct ex_limits_who *ret)
{
	uint8_t digest[SHA256_DIGEST_LENGTH];
	int64_t id = 0;
	(void)ctx;
	if (key) {
		SHA256((const uint8_t *)key, strlen(key), digest);
		memcpy(&id, digest, sizeof id);
	}
	*ret = (struct ex_limits_who){.account = id, .key = id, .tier = 0};
	return true;
}

/* By account: its tier is that of the configuration with its name. */
static bool who_by_account(void *ctx, const char *key, struct ex_limits_who *ret)
{
	const struct ex_house *h = ctx;
	struct ex_account a;
	int64_t id;
	if (!key || ex_accounts_of_key(ex_desk_accounts(h->desk), key, &a, &id) < 0)
		return false;
	*ret = (struct ex_limits_who){
		.account = a.id, .key = id, .tier = ex_limits_tier_find(h->tiers, h->n_tiers, a.tier)};
	return true;
}

static bool state_path(const struct ex_house *h, const char *suffix, char out[static PATH_MAX])
{
	return snprintf(out, PATH_MAX, "%s/" STATE_FILE "%s", h->p->node_state, suffix) < PATH_MAX;
}

/* What cannot be read is told, and everybody begins anew: that is one burst more than they had. */
static void load_state(struct ex_house *h)
{
	struct ex_err err = EX_ERR_INIT;
	EX_CLEANUP(ex_freep) char *text = NULL;
	char path[PATH_MAX];
	size_t n;
	if (!state_path(h, "", path) || access(path, F_OK) < 0)
		return;
	int rc = ex_read_file(path, STATE_BYTES_MAX, &err, &text, &n);
	if (rc == 0)
		rc = ex_limits_load(h->limits, text, n, ex_realtime_us() * 1000, &err);
	if (rc < 0)
		ex_log(LOG_WARNING, "'%s' is not taken up, all limits begin anew: %s", path, ex_err_text(&err));
}

static int write_state(const char *temporary, const char *path, const struct ex_str *text)
{
	EX_CLEANUP(ex_closep) int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int rc = text->oom ? -ENOMEM : fd < 0 ? -errno : text->n ? ex_write_all(fd, text->s, text->n) : 0;
	if (rc == 0 && rename(temporary, path) < 0)
		rc = -errno;
	if (rc < 0 && fd >= 0)
		unlink(temporary);
	return rc;
}

static void save_state(struct ex_house *h)
{
	char path[PATH_MAX], temporary[PATH_MAX];
	struct ex_str text = EX_STR_INIT;
	if (!state_path(h, "", path) || !state_path(h, ".new", temporary))
		return;
	ex_limits_save(h->limits, ex_realtime_us() * 1000, &text);
	int rc = write_state(temporary, path, &text);
	ex_str_done(&text);
	if (rc < 0 && !h->limits_unsaved)
		ex_log(LOG_WARNING, "the limits' states cannot be kept in '%s': %s", path, strerror(-rc));
	h->limits_unsaved = rc < 0;
}

void ex_house_save_limits(struct ex_house *h, uint64_t now_ns)
{
	if (now_ns - h->limits_saved_ns < SAVE_NS)
		return;
	h->limits_saved_ns = now_ns;
	save_state(h);
}

int ex_house_build_limits(struct ex_house *h, const struct ex_admit **admit, struct ex_err *err)
{
	const struct ex_params *p = h->p;
	h->tiers = ex_calloc(EX_FAIR_TIERS_MAX, sizeof *h->tiers);
	if (!h->tiers)
		return ex_err_errno(err, -ENOMEM, "cannot keep limits");
	int rc = ex_config_tiers(p, err, h->tiers, &h->n_tiers);
	if (rc < 0)
		return rc;
	const struct ex_limits_opts o = {.inner = *admit,
		.who = p->gateway_accounts ? who_by_account : who_by_token,
		.ctx = h,
		.tiers = h->tiers,
		.n_tiers = h->n_tiers,
		.places = p->router_max_batch,
		.queue_max = p->limits_queue_max,
		.queue_wait_ms = p->limits_queue_wait_ms};
	rc = ex_limits_new(&o, err, &h->limits);
	if (rc < 0)
		return rc;
	load_state(h);
	*admit = ex_limits_admit(h->limits);
	return 0;
}

void ex_house_free_limits(struct ex_house *h)
{
	if (h->limits)
		save_state(h);
	h->limits = ex_limits_free(h->limits);
	free(h->tiers);
	h->tiers = NULL;
}
