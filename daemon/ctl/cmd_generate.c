/* SPDX-License-Identifier: Apache-2.0 */
/* expertctl chat and generate: tokens on the terminal as they come. */
#include "ctl/ctl.h"

#include "expertd/router.pb-c.h"
#include <stdio.h>
#include <string.h>

#define PATH_GENERATE "/expertd.v1.Router/Generate"
#define STOPS_MAX     16
#define TURNS_MAX     64

const struct ctl_opt ctl_opts_generate[] = {
	{"max-tokens", "N", "at most N tokens (default: up to the context's end)"},
	{"temperature", "T", "0: greedy (default); up to 4"},
	{"top-p", "P", "nucleus sampling, 0 to 1"},
	{"top-k", "K", "only the K likeliest tokens; 0: off"},
	{"seed", "N", "of the sampler: same seed, same text"},
	{"stop", "TEXT", "end at TEXT, which is not printed; may be given up to 16 times"},
	{"logprobs", "N", "log-probability of each token, with N (0 to 20) alternatives"},
	{"system", "TEXT", "chat: the system message"},
	{"ignore-eos", NULL, "go on after the model's end of text, up to --max-tokens"},
	{"raw", NULL, "keep special tokens in the text"},
	{"stats", NULL, "end with a line of figures (default on a terminal)"},
	{NULL, NULL, NULL},
};

typedef Expertd__V1__GenerateRequest request_t;
typedef Expertd__V1__GenerateReply reply_t;

/* --- printing what comes --------------------------------------------------------------------------------- */

enum section { NONE, REASONING, ANSWER };

struct printer {
	const struct ctl *c;
	bool labels; /* chat: "think:" and "answer:" */
	enum section section;
	struct ex_str answer; /* for the next turn of a conversation */
	bool stats, failed;
};

static void enter(struct printer *p, enum section s)
{
	if (p->section == s)
		return;
	if (p->section == REASONING && p->labels)
		fputs(p->c->tty ? "\033[0m\n" : "\n", stdout);
	if (p->labels)
		fputs(s == REASONING ? (p->c->tty ? "\033[2mthink: " : "think: ") : "answer: ", stdout);
	p->section = s;
}

/* Ends the line, however the answer ended: the terminal is not left dim. */
static void leave(struct printer *p)
{
	if (p->c->tty && p->section == REASONING && p->labels)
		fputs("\033[0m", stdout);
	if (p->section != NONE)
		putchar('\n');
	p->section = NONE;
}

/* White space at a section's start is the template's, not the answer's. */
static const char *skip_leading(const struct printer *p, enum section s, const char *text)
{
	if (p->labels && p->section != s)
		while (*text == '\n' || *text == ' ')
			text++;
	return text;
}

static void print_text(struct printer *p, enum section s, const char *text)
{
	text = skip_leading(p, s, text);
	if (!*text)
		return;
	enter(p, s);
	fputs(text, stdout);
	if (s == ANSWER)
		ex_str_add(&p->answer, text);
}

static void print_logprobs(const Expertd__V1__Delta *d)
{
	for (size_t i = 0; i < d->n_logprobs; i++) {
		const Expertd__V1__TokenLogprob *t = d->logprobs[i];
		printf("%8u  %9.4f  %.*s", t->id, (double)t->logprob, (int)t->text.len, (const char *)t->text.data);
		for (size_t k = 0; k < t->n_top; k++)
			printf("%s%.*s %.4f", k ? ", " : "  | ", (int)t->top[k]->text.len,
				(const char *)t->top[k]->text.data, (double)t->top[k]->logprob);
		putchar('\n');
	}
}

static void print_stats(const Expertd__V1__Finished *f)
{
	char first[32], tokens[32], rows[32];
	double decode = f->total_seconds - f->first_token_seconds;
	uint32_t after_first = f->completion_tokens > 1 ? f->completion_tokens - 1 : 0;
	printf("%s tokens · first token %s", ctl_count_text(f->completion_tokens, tokens),
		ctl_seconds_text(f->first_token_seconds, first));
	if (after_first && decode > 0)
		printf(" · %.0f tokens/s", after_first / decode);
	if (f->rows_dispatched)
		printf(" · %s rows dispatched over gRPC", ctl_count_text(f->rows_dispatched, rows));
	putchar('\n');
}

static bool ended_early(const Expertd__V1__Finished *f)
{
	return *f->error || strcmp(f->reason, "cancelled") == 0 ||
	       strcmp(f->reason, "insufficient_system_resource") == 0;
}

static int print_finished(struct printer *p, const Expertd__V1__Finished *f)
{
	leave(p);
	if (p->stats)
		print_stats(f);
	if (ended_early(f)) {
		p->failed = true;
		ctl_fail(CTL_FAILED, "ended early (%s)%s%s", f->reason, *f->error ? ": " : "", f->error);
	}
	return CTL_OK;
}

static int on_reply(void *ctx, const ProtobufCMessage *m)
{
	struct printer *p = ctx;
	const reply_t *r = (const reply_t *)m;
	if (p->c->json) {
		ctl_print_json(ctl_json(m), true);
		fflush(stdout);
		if (r->event_case == EXPERTD__V1__GENERATE_REPLY__EVENT_DELTA)
			ex_str_add(&p->answer, r->delta->text);
		p->failed |= r->event_case == EXPERTD__V1__GENERATE_REPLY__EVENT_FINISHED && ended_early(r->finished);
		return CTL_OK;
	}
	if (r->event_case == EXPERTD__V1__GENERATE_REPLY__EVENT_DELTA) {
		if (r->delta->n_logprobs)
			print_logprobs(r->delta);
		else {
			print_text(p, REASONING, r->delta->reasoning);
			print_text(p, ANSWER, r->delta->text);
		}
		fflush(stdout);
	} else if (r->event_case == EXPERTD__V1__GENERATE_REPLY__EVENT_FINISHED)
		return print_finished(p, r->finished);
	return CTL_OK;
}

/* --- the request ----------------------------------------------------------------------------------------- */

struct asked {
	request_t q;
	Expertd__V1__Sampling sampling;
	char *stop[STOPS_MAX];
};

static int read_options(const struct ctl *c, struct asked *a)
{
	uint64_t max_tokens, top_k, seed, top;
	expertd__v1__generate_request__init(&a->q);
	expertd__v1__sampling__init(&a->sampling);
	if (ctl_u64(c, "max-tokens", 1, UINT32_MAX, 0, &max_tokens) || ctl_u64(c, "top-k", 0, UINT32_MAX, 0, &top_k) ||
		ctl_u64(c, "seed", 0, UINT64_MAX, 0, &seed) || ctl_u64(c, "logprobs", 0, 20, 0, &top) ||
		ctl_float(c, "temperature", 0, 4, 0, &a->sampling.temperature) ||
		ctl_float(c, "top-p", 0, 1, 1, &a->sampling.top_p))
		return CTL_USAGE;
	a->sampling.top_k = (uint32_t)top_k;
	a->sampling.seed = seed;
	a->q.sampling = &a->sampling;
	a->q.max_tokens = (uint32_t)max_tokens;
	a->q.logprobs = ctl_has(c, "logprobs");
	a->q.top_logprobs = (uint32_t)top;
	a->q.ignore_eos = ctl_has(c, "ignore-eos");
	a->q.keep_special = ctl_has(c, "raw");
	a->q.stop = a->stop;
	for (size_t i = 0; i < c->n_given; i++)
		if (strcmp(c->given[i].opt->name, "stop") == 0) {
			if (a->q.n_stop == STOPS_MAX)
				return ctl_fail(CTL_USAGE, "more than %d --stop", STOPS_MAX);
			a->stop[a->q.n_stop++] = (char *)c->given[i].value;
		}
	return CTL_OK;
}

static int ask(struct ctl *c, struct printer *p, const request_t *q)
{
	p->section = NONE;
	int rc = ctl_stream(c, PATH_GENERATE, &q->base, &expertd__v1__generate_reply__descriptor, on_reply, p);
	leave(p);
	return rc ? rc : p->failed ? CTL_FAILED : CTL_OK;
}

static void printer_init(struct printer *p, const struct ctl *c, bool labels)
{
	*p = (struct printer){.c = c, .labels = labels, .stats = !c->json && (c->tty || ctl_has(c, "stats"))};
}

int ctl_cmd_generate(struct ctl *c, int argc, char **argv)
{
	struct asked a = {0};
	struct printer p;
	(void)argc;
	if (read_options(c, &a))
		return CTL_USAGE;
	printer_init(&p, c, false);
	a.q.prompt_case = EXPERTD__V1__GENERATE_REQUEST__PROMPT_TEXT;
	a.q.text = argv[0];
	int rc = ask(c, &p, &a.q);
	ex_str_done(&p.answer);
	return rc;
}

/* --- conversations --------------------------------------------------------------------------------------- */

struct talk {
	Expertd__V1__ChatMessage message[2 * TURNS_MAX + 1], *list[2 * TURNS_MAX + 1];
	Expertd__V1__ChatPrompt prompt;
};

/* Takes content (free()d by talk_done). */
static void talk_add(struct talk *t, const char *role, char *content)
{
	size_t n = t->prompt.n_messages++;
	expertd__v1__chat_message__init(&t->message[n]);
	t->message[n].role = (char *)role;
	t->message[n].content = content;
	t->list[n] = &t->message[n];
	t->prompt.messages = t->list;
}

static void talk_done(struct talk *t)
{
	for (size_t i = 0; i < t->prompt.n_messages; i++)
		free(t->message[i].content);
	free(t);
}

/* Reads lines until the end of input; every answer becomes part of the next prompt. */
static int converse(struct ctl *c, struct printer *p, struct asked *a, struct talk *t)
{
	EX_CLEANUP(ex_freep) char *line = NULL;
	size_t cap = 0;
	int rc = CTL_OK;
	for (int turn = 0; turn < TURNS_MAX; turn++) {
		if (c->tty)
			fputs("> ", stdout);
		fflush(stdout);
		ssize_t n = getline(&line, &cap, stdin);
		if (n < 0)
			return rc;
		while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
			line[--n] = '\0';
		if (n == 0)
			continue;
		talk_add(t, "user", strdup(line));
		rc = ask(c, p, &a->q);
		if (rc)
			return rc;
		char *answer = ex_str_take(&p->answer);
		talk_add(t, "assistant", answer ? answer : strdup(""));
	}
	return ctl_fail(CTL_FAILED, "the conversation has reached %d turns", TURNS_MAX);
}

int ctl_cmd_chat(struct ctl *c, int argc, char **argv)
{
	struct asked a = {0};
	struct printer p;
	if (read_options(c, &a))
		return CTL_USAGE;
	struct talk *t = calloc(1, sizeof *t);
	if (!t)
		return ctl_fail(CTL_FAILED, "out of memory");
	expertd__v1__chat_prompt__init(&t->prompt);
	if (ctl_has(c, "system"))
		talk_add(t, "system", strdup(ctl_str(c, "system", "")));
	printer_init(&p, c, true);
	a.q.prompt_case = EXPERTD__V1__GENERATE_REQUEST__PROMPT_CHAT;
	a.q.chat = &t->prompt;
	int rc;
	if (argc == 1) {
		talk_add(t, "user", strdup(argv[0]));
		rc = ask(c, &p, &a.q);
	} else
		rc = converse(c, &p, &a, t);
	ex_str_done(&p.answer);
	talk_done(t);
	return rc;
}
