/* SPDX-License-Identifier: Apache-2.0 */
/* Every metric: identifier, exposed name, type, label key (NULL: none), help. Histograms share one set of buckets: powers of 2
 * from 10 us to about 84 s. No include guard: included for each use. */
/* clang-format off */
EX_METRIC(REQUESTS_RUNNING, "expertd_num_requests_running", EX_GAUGE, NULL, "Requests in the running batch.")
EX_METRIC(REQUESTS_WAITING, "expertd_num_requests_waiting", EX_GAUGE, NULL, "Requests waiting for a place in the batch.")
EX_METRIC(KV_USAGE, "expertd_kv_cache_usage_perc", EX_GAUGE, NULL, "Share of KV pages in use, 0 to 1.")
EX_METRIC(PREEMPTIONS, "expertd_num_preemptions_total", EX_COUNTER, NULL, "Sequences pushed out of the batch for want of KV pages, to be computed again.")
EX_METRIC(PROMPT_TOKENS, "expertd_prompt_tokens_total", EX_COUNTER, NULL, "Prompt tokens computed.")
EX_METRIC(GENERATION_TOKENS, "expertd_generation_tokens_total", EX_COUNTER, NULL, "Tokens generated.")
EX_METRIC(REQUEST_SUCCESS, "expertd_request_success_total", EX_COUNTER, "finished_reason", "Requests ended, by reason.")
EX_METRIC(TTFT, "expertd_time_to_first_token_seconds", EX_HISTOGRAM, NULL, "From submission to the first token.")
EX_METRIC(ITL, "expertd_inter_token_latency_seconds", EX_HISTOGRAM, NULL, "Between two tokens of one request.")
EX_METRIC(E2E, "expertd_e2e_request_latency_seconds", EX_HISTOGRAM, NULL, "From submission to the end of a request.")
EX_METRIC(QUEUE_TIME, "expertd_request_queue_time_seconds", EX_HISTOGRAM, NULL, "From submission to admission into the batch.")
EX_METRIC(DISPATCH_ROWS, "expertd_dispatch_rows_total", EX_COUNTER, "host", "Token rows sent to expert hosts (host \"local\": in process).")
EX_METRIC(DISPATCH_FRAMES, "expertd_dispatch_frames_total", EX_COUNTER, "host", "Frames sent to expert hosts.")
EX_METRIC(DISPATCH_SECONDS, "expertd_dispatch_seconds", EX_HISTOGRAM, "host", "From sending a frame to its reply.")
EX_METRIC(DISPATCH_ERRORS, "expertd_dispatch_errors_total", EX_COUNTER, "host", "Frames that failed.")
EX_METRIC(DISPATCH_RESENT, "expertd_dispatch_resent_rows_total", EX_COUNTER, "host", "Token rows of this host that were asked for elsewhere: it failed, fell silent or was late.")
EX_METRIC(IDENTITY_CHANGES, "expertd_identity_changes_total", EX_COUNTER, NULL, "Shards that went on with a replica of another numeric identity.")
EX_METRIC(EXPERT_ROWS, "expertd_expert_rows_total", EX_COUNTER, "layer", "Token rows computed by local shards.")
EX_METRIC(EXPERT_SECONDS, "expertd_expert_run_seconds", EX_HISTOGRAM, "layer", "One plugin run of one shard.")
EX_METRIC(SHARDS, "expertd_shards", EX_GAUGE, "state", "Local shards by state.")
EX_METRIC(RESIDENT_BYTES, "expertd_resident_memory_bytes", EX_GAUGE, NULL, "Resident memory of the process.")
EX_METRIC(LOCK_TAKEN, "expertd_lock_taken_total", EX_COUNTER, "lock", "Times a lock of this name was taken.")
EX_METRIC(LOCK_WAITED, "expertd_lock_waited_total", EX_COUNTER, "lock", "Times a taker of this lock had to wait.")
/* clang-format on */
