# SPDX-License-Identifier: Apache-2.0
"""What an operator sees: status, lists, events, metrics, exit codes, a signal's effect."""

import json
import os
import pty
import re
import signal
import subprocess

from fleet import expect, expect_equal, wait_until

QUESTION = "What is 347 + 589?"


def test_status_and_lists(case):
    with case.fleet() as f:
        r1, h1, _ = f.two_hosts()
        s = r1.ctl_json("status")
        expect_equal((s["node"], s["state"], s["roles"]), ("r1", "ready", ["router"]), "node, state, roles")
        expect_equal(s["model_arch"], "deepseek_v3", "architecture")
        shards = s["router"]["shards"]
        expect_equal((s["router"]["shards_covered"], s["router"]["hosts_ready"]), (shards, 2), "coverage")
        r1.generate(QUESTION)
        hosts = {h["name"]: h for h in r1.ctl_json("host", "list")["hosts"]}
        expect_equal(sorted(hosts), ["h1", "h2"], "hosts")
        for h in hosts.values():
            expect_equal((h["state"], h["shards"]), ("ready", shards // 2), f"state and shards of {h['name']}")
            expect(h["rows"] > 0 and h["rtt_p50_seconds"] > 0, f"{h['name']} counts no rows or no time")
        seen = r1.ctl_json("shard", "list")["shards"]
        expect_equal(len(seen), shards, "shards that the router sees")
        expect(all(x["hosts"] for x in seen), "a shard without a host")
        own = h1.ctl_json("shard", "list", "L1/*")["shards"]
        expect_equal({x["info"]["layer"] for x in own}, {1}, "layers of the glob L1/*")
        expect(all(x["info"]["state"] == "ready" and len(x["info"]["identity"]) == 64 for x in own), "state and identity")
        plugins = {p["name"] for p in h1.ctl_json("plugin", "list")["plugins"]}
        expect(plugins >= {"cpu", "ref"}, f"plugins: {plugins}")
        for text in (r1.ctl("status").stdout, r1.ctl("host", "list").stdout, h1.ctl("shard", "list").stdout):
            expect("{" not in text and len(text.splitlines()) >= 3, f"not a screen for people:\n{text}")


def test_events(case):
    """Becoming ready, losing a host and its return are events, numbered and with MESSAGE_IDs; --follow streams them."""
    with case.fleet() as f:
        r1, _, h2 = f.two_hosts()
        follower = r1.spawn("--json", "events", "--follow")
        h2.kill()
        wait_until("the host is down", lambda: any(h["state"] == "down" for h in r1.ctl_json("host", "list")["hosts"]))
        h2.start()
        wait_until("the host is back", lambda: all(h["state"] == "ready" for h in r1.ctl_json("host", "list")["hosts"]))
        follower.send_signal(signal.SIGINT)
        out, _ = follower.communicate(timeout=20)
        names = re.findall(r'"name":\s*"([A-Z_]+)"', out)
        expect("DAEMON_READY" in names, f"no DAEMON_READY in {names}")
        for needle in ("DOWN", "READY"):
            expect(any(needle in n and "HOST" in n for n in names), f"no HOST_.. event with {needle} in {names}")
        expect(all(len(x) == 32 for x in re.findall(r'"message_id":\s*"([^"]*)"', out)), "a MESSAGE_ID is not 32 digits")


def test_metrics(case):
    with case.fleet() as f:
        r1, h1, _ = f.two_hosts()
        r1.generate(QUESTION)
        text = r1.ctl("metrics").stdout
        tokens = int(float(re.search(r"^expertd_generation_tokens_total (\S+)$", text, re.M).group(1)))
        expect(tokens > 5, f"generated tokens: {tokens}")
        for name in ("expertd_num_requests_running", "expertd_kv_cache_usage_perc", "expertd_time_to_first_token_seconds_bucket",
                     'expertd_dispatch_rows_total{host="h1"}', "expertd_request_success_total{finished_reason=\"stop\"}"):
            expect(name in text, f"{name} is not exposed:\n{text[:3000]}")
        for line in text.splitlines():
            expect(re.fullmatch(r"# (HELP|TYPE) .*|[a-z0-9_:]+(\{[^}]*\})? (\S+)", line), f"not Prometheus text: {line!r}")
        expect("expertd_expert_rows_total" in h1.ctl("metrics").stdout, "the host counts no expert rows")


def test_exit_codes(case):
    with case.fleet() as f:
        expect_equal(f.ctl("--socket", f.dir + "/none.sock", "status", check=False).returncode, 3, "no daemon")
        for wrong in (["stats"], ["host"], ["chat", "--top-p=2", "x"], ["chat", "--nonsense"], ["generate"], ["model", "synth"], [],
                      ["--socket=", "status"], ["chat", "--seed= -5", "x"]):
            expect_equal(f.ctl(*wrong, check=False).returncode, 2, f"exit status of {wrong}")
        expect_equal(f.ctl("model", "show", "/nonexistent", check=False).returncode, 1, "a model that is not there")
        expect_equal(f.ctl("--help").returncode, 0, "--help")
        p = f.expert("h1", "auto").ctl("chat", "x", check=False)
        expect_equal(p.returncode, 1, "exit status of a question to an expert host")
        expect("is it a router" in p.stderr, p.stderr)
        words = f.ctl("__complete", "host").stdout.split()
        expect("list" in words and "--json" in words, f"completion after 'host': {words}")


def test_model_show_and_synth(case):
    with case.fleet() as f:
        shown = f.ctl("--json", "model", "show", f.model).stdout
        expect("deepseek_v3" in shown, shown)
        config = f.model + "/config.json"
        for out in ("a", "b"):
            f.ctl("model", "synth", f"--config={config}", "--seed=5", f"--out={f.dir}/{out}")
        with open(f.dir + "/a/model.safetensors", "rb") as a, open(f.dir + "/b/model.safetensors", "rb") as b:
            expect(a.read() == b.read(), "the same seed wrote other bytes")
        p = f.ctl("model", "synth", f"--config={config}", f"--out={f.dir}/a", check=False)
        expect_equal(p.returncode, 1, "writing over a checkpoint")


def test_plugin_check(case):
    with case.fleet() as f:
        for name in ("ref", "cpu"):
            p = f.ctl("plugin", "check", f"{f.root}/lib/expertd/plugins/{name}.so", timeout=300)
            expect("FAIL" not in p.stdout, p.stdout)
        p = f.ctl("plugin", "check", f.root + "/bin/expertctl", check=False)
        expect_equal(p.returncode, 1, "a program is no plugin")
        expect("expertctl" in p.stdout + p.stderr, "the file is not named")


test_plugin_check.heavy = "thread"  # most of a minute


def test_drain_is_told(case):
    """While it drains, the service manager hears how much is left, and not to kill it before drain_s is over."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto")
        r1 = f.router("r1", [h1], extra={"node": {"drain_s": 300}})
        n = 100 if case.sanitized else 450
        asked = [r1.spawn("generate", "1+1=", "--ignore-eos", f"--max-tokens={n}") for _ in range(6)]
        for p in asked:
            p.stdout.read(1)  # it has begun
        r1.signal(signal.SIGTERM)
        expect(r1.notify.wait("STATUS=draining: ", 20), f"no figures while draining: {r1.notify.status}")
        for p in asked:
            expect_equal(p.wait(200), 0, f"exit status of a request that is drained: {p.stderr.read()}")
        expect_equal(r1.process.wait(60), 0, "exit status")
        longer = r1.notify.wait("EXTEND_TIMEOUT_USEC=", 5)
        expect(longer and int(longer.split("=")[1]) > 300_000_000, f"the stop may take longer than drain_s: {longer}")


def test_a_stream_that_breaks(case):
    """A generation cut by the daemon's death is a failure (1), not an absent daemon (3); an interrupt (130) leaves no terminal dim."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto")
        r1 = f.router("r1", [h1])
        cut = [r1.spawn(*options, "generate", "1+1=", "--ignore-eos", "--max-tokens=450") for options in ([], ["--json"])]
        for p in cut:
            p.stdout.read(1)
        r1.kill()
        for p in cut:
            expect_equal(p.wait(20), 1, "exit status of a cut generation")
            expect("went away" in p.stderr.read(), "the reason is not said")
        r1.start()
        for _ in range(20):  # one that is still thinking when the interrupt comes
            shown, status = on_terminal(f, r1, b"think:", "chat", QUESTION, "--ignore-eos")
            if status == 130 and b"answer:" not in shown:
                break
        expect_equal(status, 130, "exit status of an interrupted generation")
        expect(shown.rindex(b"\x1b[0m") > shown.rindex(b"\x1b[2m"), f"the terminal is left dim: {shown!r}")


def on_terminal(f, node, interrupt_at, *args):
    """What expertctl shows on a terminal, interrupted once interrupt_at is there, and its exit status."""
    outer, inner = pty.openpty()
    shown = b""
    with subprocess.Popen([f.expertctl, "--socket", node.admin, *args], stdin=subprocess.DEVNULL, stdout=inner, stderr=inner) as p:
        os.close(inner)
        while True:
            try:
                more = os.read(outer, 4096)
            except OSError:  # EIO: nobody has the terminal open any more
                break
            if interrupt_at not in shown and interrupt_at in shown + more:
                p.send_signal(signal.SIGINT)
            shown += more
    os.close(outer)
    return shown, p.returncode


def test_the_manual_knows_every_option(case):
    """Commands and options as expertctl itself lists them are all in expertctl(1)."""
    with case.fleet() as f:
        with open(f.root + "/share/man/man1/expertctl.1", encoding="utf-8") as file:
            manual = re.sub(r"\\f[BIR]", "", file.read()).replace("\\-", "-")

        def listed(*words):
            out = f.ctl("__complete", *words).stdout.split()
            return [w.rstrip("=") for w in out if w[0] == "-"], [w for w in out if w[0] != "-"]

        commands = [(first, second) for first in listed()[1] for second in listed(first)[1] or [""]]
        expect(len(commands) > 10, f"commands: {commands}")
        for command in commands:
            words = [w for w in command if w]
            expect(" ".join(words) in manual, f"{words} is not in the manual")
            for option in listed(*words)[0]:
                expect(option in manual, f"{option} of {words} is not in the manual")


def test_completion(case):
    """bash, asked as by a TAB: the program that is typed is asked, wherever it lies, and values are file names."""
    script = """
        . "$1/share/bash-completion/completions/expertctl"; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        compopt() { :; }
        _expertctl "$1" "${COMP_WORDS[COMP_CWORD]}"
        printf '%s\\n' "${COMPREPLY[@]}"; complete -p expertctl"""

    def words(f, *typed):
        p = subprocess.run(["bash", "-c", script, "bash", f.root, f.expertctl, *typed], capture_output=True, text=True, timeout=20, check=True)
        expect_equal(p.stderr, "", f"messages while completing {typed}")
        return p.stdout.splitlines()

    with case.fleet() as f:
        expect("status" in words(f, ""), words(f, ""))
        expect_equal(words(f, "ho")[0], "host", "after 'ho'")
        expect("list" in words(f, "--socket", "=", "/x", "host", ""), "no 'list' after an option with a value")
        expect("--seed=" in words(f, "chat", "--se"), words(f, "chat", "--se"))
        expect(any(w.endswith("/cpu.so") for w in words(f, "plugin", "check", f.root + "/lib/expertd/plugins/")), "no plugin is offered")
        expect("-o default" in words(f, "model", "synth", "--config", "=", "/")[-1], "file names of values are not completed")


def test_numbers_beyond_int64(case):
    """A seed beyond 2^63 is what was given, in JSON as text."""
    with case.fleet() as f:
        p = subprocess.run([f.expertctl, "model", "synth", "--json", f"--config={f.model}/config.json", f"--out={f.dir}/m",
                            f"--seed={2**64 - 1}"], capture_output=True, text=True, timeout=120, check=True)
        expect_equal(json.loads(p.stdout)["seed"], str(2**64 - 1), "the seed")
