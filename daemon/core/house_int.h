/* SPDX-License-Identifier: Apache-2.0 */
/* The house from the inside: what core/house*.c share. Layer L5. */
#ifndef EX_CORE_HOUSE_INT_H
#define EX_CORE_HOUSE_INT_H

#include "admin/http.h"
#include "admin/service.h"
#include "base/lock.h"
#include "core/choice.h"
#include "core/config.h"
#include "core/gate.h"
#include "core/house.h"
#include "engine/model_calls.h"
#include "engine/service.h"
#include "expert/epochs.h"
#include "expert/moves.h"
#include "expert/starts.h"
#include "fleet/registrar.h"
#include "gateway/edge.h"
#include "gateway/admit_accounts.h"
#include "gateway/service.h"
#include "gateway/limits.h"
#include "gateway/topup_service.h"

/* What a plugin is told, and what it may tell. */
struct ex_plugin_host {
	struct expertd_host host;
	char name[64];                      /* of the plugin, for its journal lines */
	char threads[12];                   /* its option "threads" */
	const struct ex_text_list *options; /* "KEY=VALUE"; borrowed from the parameters */
};

/* Where the router hears of expert hosts. */
enum { EX_SOURCE_PEERS, EX_SOURCE_ETCD, EX_SOURCE_N };
struct ex_house_listed {
	char **v; /* [n] addresses */
	size_t n;
};
struct ex_house_source {
	struct ex_house *house;
	struct ex_members *members;
	bool stale;                    /* [cq of the control loop] */
	struct ex_house_listed listed; /* guarded by house->members_lock, as `changed` */
	bool changed;
};

/* What a router serves a model with. */
struct ex_house_model {
	struct ex_house *house;
	char dir[PATH_MAX];
	struct ex_weights *weights;
	struct ex_tokenizer *tokenizer;
	struct ex_chat *chat;
	struct ex_trunk *trunk;
	struct ex_dispatch *dispatch;
	struct ex_edge_model *edge; /* NULL: no gateway */
	_Atomic bool quiet;         /* its hosts' changes are not told: it does not serve yet, or not any more */
};

struct ex_switcher; /* house_model.c */

/* Built from top to bottom, taken apart from bottom to top; NULL: not there. */
struct ex_house {
	struct ex_house_opts o;
	const struct ex_params *p;
	_Atomic bool cancelled;
	bool draining, covered;
	_Atomic bool covered_once; /* the router serves, and may be switched */
	unsigned grace_ms;         /* for the last bytes of requests that ended; 0 when they were cut anyway */
	uint64_t tick_ns;          /* the last one */
	char status[160];          /* the last one told */
	uint64_t quiet_since_ns;   /* drain: when the experts were last seen idle; 0: never */
	uint64_t progress_ns, progress_log_ns; /* [loader] when progress was last told */

	struct ex_tls *tls, *tls_clients, *tls_etcd; /* of traffic between hosts; of [router] listen; towards etcd */
	_Atomic uint32_t tls_warn_days;
	/* When the journal last warned of a certificate's end; 0: not of this one. */
	_Atomic int64_t tls_warned_s, tls_etcd_warned_s;
	struct {
		struct ex_lock lock;
		uint64_t told_ns; /* guarded by lock */
	} refusals;

	struct ex_loop *loop_admin, *loop_control, *loop_data, *loop_dispatch, *loop_clients;
	struct ex_admin *admin;
	struct ex_admin_parts shown;                     /* what admin sees; changed by show() */
	struct ex_gate gate, gate_accounts, gate_topups; /* Router, Accounts and Topups methods on the admin socket */
	struct ex_method *admin_methods;
	struct ex_server *admin_server;
	struct ex_metrics_http *http;
	gid_t admin_gid; /* of admin_group; (gid_t)-1: none */

	struct ex_choice choice;    /* [loader] until the house is built, then its roles' own; see house_model.c */
	char model_dir[PATH_MAX];   /* of the live model at the start */
	struct ex_weights *weights; /* of that model; of an expert host's live one, guarded by models_lock */
	uint32_t n_groups;

	struct ex_plugin *expert_plugin;
	struct ex_plugin_host expert_host;
	struct ex_registry *registry;
	struct ex_published *published;
	struct ex_starts *starts;                /* that did not last, of published plugins */
	uint64_t served_ns;                      /* since when it has served; 0: not yet [main] */
	bool lasted;                             /* this start is not counted any more [main] */
	struct ex_shard_id *shards, *configured; /* all of the fleet; those that the configuration asks for */
	size_t n_shards, n_configured;
	char **trial_options; /* of the plugin, "threads=.." among them; [n_trial_options] */
	size_t n_trial_options;
	struct ex_executor *executor;
	struct ex_swapper *swapper;
	struct ex_epochs *epochs;
	struct ex_epochs *_Atomic epochs_shown; /* to the admin service, once made */
	struct ex_method epochs_methods[EX_EPOCHS_METHODS];
	struct ex_experts_service *experts_service;
	struct ex_moves *moves;
	struct ex_method expert_methods[3 + EX_EPOCHS_METHODS]; /* of all three, for expert_server */
	struct ex_server *expert_server, *expert_data_server;   /* data: plain text, with [tls] mode = control */
	struct ex_registrar *registrar;                         /* in etcd; NULL also once the process is stopping */
	/* What is registered: of the registry's revision, and memory as it was at the start. [loader], then [main] */
	uint64_t member_revision, member_bytes;
	char member_identity[EX_IDENTITY_KIND_MAX], member_digest[EX_DIGEST_HEX];

	struct ex_lock members_lock;
	struct ex_house_source source[EX_SOURCE_N];
	uint64_t
		members_ns; /* when hosts that etcd has lost sight of were last looked at; 0: there are none [as apply] */

	struct ex_plugin *trunk_plugin;
	struct ex_plugin_host trunk_host;
	uint32_t n_ctx, n_pages;
	/* The router's models: that is served, that is being prepared, that requests still use. Written by the switcher under the lock once it
	 * runs; other threads look at them, and at what is shown, under it. */
	struct ex_lock models_lock;
	struct ex_house_model *model, *next, *before;
	char expert_dir[PATH_MAX]; /* of an expert host's live model; guarded by models_lock */
	struct ex_engine *engine;
	struct ex_mover *mover; /* under params_lock until the house is built; follows the model that is served */
	struct ex_switcher *switcher;
	struct ex_router_service *router_service;
	struct ex_server *router_server;
	struct ex_https *https; /* made before all threads: a reload may come at any time */
	struct ex_gateway *gateway;
	int http_fd;              /* handed over by systemd; -1: none */
	struct ex_topups *topups; /* NULL: none */
	struct ex_topup_service *topup_service;
	struct ex_house_look *look; /* of topups */
	struct ex_limits *limits;   /* NULL: none */
	struct ex_limits_tier *tiers;
	uint32_t n_tiers;
	uint64_t limits_saved_ns;
	bool limits_unsaved; /* the last try failed, and was told */

	char *ledger_store; /* as ex_store_open */
	struct ex_desk *desk;
	struct ex_admit_accounts *admit_accounts;
	struct ex_accounts_service *accounts_service;
};

int ex_house_build_admin(struct ex_house *h, struct ex_err *err);   /* [loader] */
void ex_house_free_admin(struct ex_house *h);                       /* [main] after its server is stopped */
int ex_house_build_experts(struct ex_house *h, struct ex_err *err); /* [loader] */
/* What operators made of the configured shards. [loader] */
int ex_house_open_published(struct ex_house *h, struct ex_err *err);
/* An operator took the shard out of service. [loader] */
bool ex_house_is_unloaded(const struct ex_house *h, const struct ex_shard_id *id);
/* Loads a shard as it was published last; with the configured plugin if that fails. [loader] */
int ex_house_load_published(struct ex_house *h, const struct ex_shard_id *id, struct ex_err *err);
int ex_house_build_swapper(struct ex_house *h, struct ex_err *err); /* [loader] */
void ex_house_free_published(struct ex_house *h);                   /* [main] */
/* A start that has lasted long enough is not counted against its plugins. [main] */
void ex_house_watch_start(struct ex_house *h);
void ex_house_end_start(struct ex_house *h);                   /* nor is one that ends in order [main] */
void ex_house_free_experts(struct ex_house *h);                /* [main] */
int ex_house_register(struct ex_house *h, struct ex_err *err); /* [loader] once the experts are served */
/* Writes the key anew when its shards are computed in another way than it says. [main] */
void ex_house_watch_registration(struct ex_house *h);
int ex_house_build_router(struct ex_house *h, struct ex_err *err);         /* [loader] */
void ex_house_free_router(struct ex_house *h);                             /* [main] */
int ex_house_build_https(struct ex_house *h, struct ex_err *err);          /* [main] before all threads */
void ex_house_reload_https(struct ex_house *h, const struct ex_params *p); /* [main, admin loop] one at a time */
int ex_house_build_topups(struct ex_house *h, struct ex_err *err);         /* [loader] after the ledger */
void ex_house_look_topups(struct ex_house *h, uint64_t now_ns);            /* now and then [main] */
void ex_house_free_topups(struct ex_house *h);                             /* [main] once the desk's jobs have ended */
/* Limits in front of who admits; *admit is what the gateway asks from then on. [loader] */
int ex_house_build_limits(struct ex_house *h, const struct ex_admit **admit, struct ex_err *err);
void ex_house_save_limits(struct ex_house *h, uint64_t now_ns); /* now and then [main] */
void ex_house_free_limits(struct ex_house *h);                  /* [main] after the gateway */
/* Once the router serves. [loader] */
int ex_house_build_gateway(struct ex_house *h, struct ex_err *err);
void ex_house_free_gateway(struct ex_house *h); /* [main] before the router; its engine's requests have ended */
int ex_house_build_ledger(struct ex_house *h, struct ex_err *err); /* [loader] before requests are taken */
void ex_house_free_ledger(struct ex_house *h);                     /* [main] after all who ask it */
/* [router] peers as they are now: the first list. [loader] */
int ex_house_copy_peers(struct ex_house *h, struct ex_err *err);
int ex_house_follow_members(struct ex_house *h, struct ex_err *err); /* [loader] before dispatch is used */
/* Makes the hosts of the sources dispatch's. [loader] until the house is built, then [main] */
void ex_house_apply_members(struct ex_house *h);
void ex_house_leave_members(struct ex_house *h); /* [main] */

int ex_house_build_mover(struct ex_house *h, struct ex_err *err); /* [loader] once dispatch serves */
/* Takes up [router] placement. The caller holds params_lock. [main, admin loop] */
void ex_house_reload_placement(struct ex_house *h);
/* --- models: house_router.c, house_model.c ------------------------------------------------------------------ */
/* A model as the router serves it, from `dir`; w's reference is taken over, also on failure. Not its dispatch. [loader, switcher] */
int ex_house_open_model(
	struct ex_house *h, const char *dir, struct ex_weights *w, struct ex_err *err, struct ex_house_model **ret);
/* Its dispatch over these hosts. [loader, switcher] */
int ex_house_open_dispatch(struct ex_house_model *m, const char *const *peers, size_t n_peers, struct ex_err *err);
struct ex_house_model *ex_house_close_model(struct ex_house_model *m); /* takes NULL */
int ex_house_build_switcher(struct ex_house *h, struct ex_err *err);   /* [loader] last */
void ex_house_stop_switcher(struct ex_house *h);                       /* [main] before the engine goes; takes none */
int ex_house_switch_model(
	void *house, const char *dir, bool move, const struct ex_switch_client *c, struct ex_err *err);
void ex_house_view_model(void *house, struct ex_switch_view *ret); /* [any] */
int ex_house_build_epochs(struct ex_house *h, struct ex_err *err); /* [loader] after the swapper */
/* Does to the shards of this process what hosts are asked for, on the loader's thread, and waits; 0 when there are none. [switcher] */
enum ex_local_step { EX_LOCAL_PREPARE, EX_LOCAL_DECIDE, EX_LOCAL_COMMIT, EX_LOCAL_DROP };
int ex_house_local_model(
	struct ex_house *h, const struct ex_model_calls *c, enum ex_local_step step, struct ex_err *err);

int ex_house_build_tls(struct ex_house *h, struct ex_err *err); /* [main] before all others */
void ex_house_free_tls(struct ex_house *h);                     /* [main] after all others; build may have failed */
void ex_house_watch_tls(struct ex_house *h);                    /* metric and warnings [main] */
void ex_house_refused_peer(void *ctx, const char *peer, const char *text); /* of ex_server_opts; ctx: the house */

/* Shows the admin service what is there now. */
void ex_house_show(struct ex_house *h);
/* -ECANCELED once a stop was asked for. */
int ex_house_check_cancelled(struct ex_house *h, struct ex_err *err);
/* STATUS= and, less often, a journal line: "loading shards: 12 of 48". [loader] */
void ex_house_progress(struct ex_house *h, const char *what, uint64_t done, uint64_t total);
/* [node] receive_bytes_max; auto: half of the memory that is available just now. */
size_t ex_house_receive_bytes_max(const struct ex_house *h);
/* Opens a plugin by name, or the best of dir, and makes its host. threads 0: one per processor. host is at its final place. [loader] */
int ex_house_open_plugin(const char *name, const char *dir, uint32_t threads, const struct ex_text_list *options,
	struct ex_err *err, struct ex_plugin_host *host, struct ex_plugin **ret);

#endif
