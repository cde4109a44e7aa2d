/* SPDX-License-Identifier: Apache-2.0 */
/* Every operator event: identifier, MESSAGE_ID (systemd-id128 new), priority, subject, explanation. The journal catalog, the
 * events list of the manual and the event ring are made from this table. No include guard: included for each use. */
/* clang-format off */
EX_EVENT(DAEMON_READY, "6736b1f3e6674de29f94b0be8a379f04", LOG_NOTICE, "expertd is ready", "All listed roles are up and serving.")
EX_EVENT(DAEMON_STOPPING, "7a91ffb686e64e939698e5155feed3f3", LOG_NOTICE, "expertd is stopping", "A stop was asked for; requests in flight are given drain_s seconds to end.")
EX_EVENT(MODEL_OPENED, "fdead1f9f5ab4e8e9cae70d726a6d34a", LOG_NOTICE, "A checkpoint was opened", "Its tensors are all there and have the right shapes. Weights are read when shards and trunk are loaded.")
EX_EVENT(SHARD_LOADED, "b70fdb9986e346e89a37cb1a359d7e38", LOG_INFO, "A shard was loaded", "The experts of the shard are computed by this process from now on.")
EX_EVENT(SHARD_FAILED, "73c9b201675040ed9ff678429bf54a79", LOG_ERR, "A shard could not be loaded", "The shard is not served by this process; the others are. Out of memory: give the host fewer shards. A NaN or infinity: the checkpoint is damaged, the named tensor says where.")
EX_EVENT(HOST_READY, "9b91db2b7a4b476ba95fab71bcf4782e", LOG_NOTICE, "An expert host is ready", "The handshake was good: same model, same version of the wire, same expert groups.")
EX_EVENT(HOST_DOWN, "dec0b026e4a24b60b0fcc752ba000026", LOG_WARNING, "An expert host is down", "Its connection broke, it fell silent, or it was refused at the handshake. Its rows went to other replicas at once; where there is none, requests are held up to hold_ms. It is tried again for ever.")
EX_EVENT(HOST_SUSPECT, "cfd7cb97c2f1499cb563f0b3df3eba4d", LOG_WARNING, "An expert host is suspect", "It is silent for longer than a heartbeat takes. What it works on is asked for elsewhere meanwhile; when it stays silent it is down.")
EX_EVENT(HOST_DRAINING, "0800d8876dda4bcba520d0492f75a854", LOG_NOTICE, "An expert host is draining", "It said that it is going to stop. Other replicas are asked from now on.")
EX_EVENT(HOST_DRAINED, "e4f11247c844468ead0a48b8b7588203", LOG_NOTICE, "An expert host was taken out of use", "An operator asked for it with 'expertctl host drain'. It is asked only for shards that nobody else holds, until 'expertctl host resume'.")
EX_EVENT(HOST_RESUMED, "96e3e5347ce14415aba14e6acf639e10", LOG_NOTICE, "An expert host is in use again", "An operator asked for it with 'expertctl host resume'.")
EX_EVENT(VERIFY_DIFFERS, "354cd1969b9e4f7d861371002a6a9451", LOG_ERR, "Two replicas of a shard gave different results", "They have the same weights, plugin and instruction set, so one of them computes wrongly: memory, processor or device of one host is faulty. The answer of the first one was used. A host that differs from two others is suspect and asked last, until it is restarted.")
EX_EVENT(IDENTITY_CHANGED, "93ba0207fb4b47f2bad4328497b69fe2", LOG_WARNING, "A shard goes on with another numeric identity", "Its weights, plugin or instruction set are not those that computed before. With failover = identical this happens only when nothing was being generated.")
EX_EVENT(COVERAGE_WHOLE, "07424671e1f64071947768274b3a3005", LOG_NOTICE, "Every shard has a host", "The router serves.")
EX_EVENT(COVERAGE_LOST, "805f4f0e8fed4ff1914a38c3a3d9a3a1", LOG_ERR, "Shards are without a host", "No ready host holds the named shards. Health checks answer NOT_SERVING until one does.")
EX_EVENT(CONFIG_RELOADED, "ab6053888f524dff9c55022d361e9e91", LOG_NOTICE, "The configuration was read again", "Parameters that may change while running were taken over; the line names those that need a restart.")
EX_EVENT(CONFIG_REFUSED, "8604d2686a414ab0831efc9d1c6f6c6b", LOG_ERR, "A new configuration was refused", "It has errors, told in the lines before. The old one stays in force.")
EX_EVENT(THREAD_STALLED, "49bfffba3ccf4f86a7e3e729f9faa4c5", LOG_ERR, "A thread makes no progress", "While it stands still the watchdog is not fed, and systemd will restart the service after WatchdogSec.")
/* clang-format on */
