# SPDX-License-Identifier: Apache-2.0
"""Configuration: every mistake is named with file, line, key and what is allowed; nothing starts on a wrong one."""

import os
import signal
import socket
import subprocess

from fleet import expect, expect_equal, free_ports, ini


def run(f, *args):
    return subprocess.run([f.expertd, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


def good(f):
    return {
        "node": {"name": "h1", "listen": f"127.0.0.1:{free_ports(1)[0]}", "admin": os.path.join(f.dir, "a.sock"),
                 "state": os.path.join(f.dir, "state")},
        "model": {"path": f.model},
        "expert": {"shards": "auto", "plugin": "cpu", "threads": 1},
    }


def check(f, text, *wanted):
    """--check-config on `text` fails and says all of `wanted`; the daemon itself does not start on it either."""
    path = os.path.join(f.dir, "expertd.conf")
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)
    for args in (["--check-config"], []):
        p = run(f, *args, "--config", path)
        expect(p.returncode != 0, f"accepted: {text}")
        for w in wanted:
            expect(w in p.stderr, f"{w!r} is not in the message for\n{text}\n{p.stderr}")


def test_good_is_accepted(case):
    with case.fleet() as f:
        path = os.path.join(f.dir, "expertd.conf")
        with open(path, "w", encoding="utf-8") as out:
            out.write(ini(good(f)))
        p = run(f, "--check-config", "--config", path)
        expect_equal(p.returncode, 0, f"--check-config: {p.stderr}")


def test_mistakes_are_named(case):
    with case.fleet() as f:
        base = ini(good(f))
        path = os.path.join(f.dir, "expertd.conf")
        line = base[:base.index("threads")].count("\n") + 1
        check(f, base.replace("threads = 1", "thraeds = 1"), path, f":{line}", "thraeds", "threads")
        check(f, base.replace("threads = 1", "threads = many"), path, f":{line}", "threads", "many")
        check(f, base.replace("threads = 1", "threads = 0"), "threads", "1")
        check(f, base + "[exprt]\nx = 1\n", "exprt", "expert")
        check(f, base.replace("shards = auto", "shards = L1//E0"), "shards", "L1//E0")
        check(f, base.replace(f"path = {f.model}", "path = /nonexistent/model"), "/nonexistent/model")
        check(f, base.replace("plugin = cpu", "plugin = quantum"), "quantum")
        check(f, base.replace("[model]\n", "[model]\nnonsense\n"), path)


def test_two_owners_of_a_port(case):
    with case.fleet() as f:
        sections = good(f)
        sections["router"] = {"listen": sections["node"]["listen"]}
        check(f, ini(sections), sections["node"]["listen"], "listen")


def test_socket_path_too_long(case):
    with case.fleet() as f:
        sections = good(f)
        sections["node"]["admin"] = os.path.join(f.dir, "a" * 120)
        check(f, ini(sections), "admin", "107")


def test_missing_file(case):
    with case.fleet() as f:
        p = run(f, "--config", "/nonexistent/expertd.conf")
        expect(p.returncode != 0 and "/nonexistent/expertd.conf" in p.stderr, p.stderr)


def test_drop_ins_and_dump(case):
    """A drop-in wins over the file, and --dump-config says where each value is from."""
    with case.fleet() as f:
        path = os.path.join(f.dir, "expertd.conf")
        os.makedirs(path + ".d")
        with open(path, "w", encoding="utf-8") as out:
            out.write(ini(good(f)))
        with open(os.path.join(path + ".d", "50-more.conf"), "w", encoding="utf-8") as out:
            out.write("[expert]\nthreads = 2\n")
        p = run(f, "--dump-config", "--config", path)
        expect_equal(p.returncode, 0, p.stderr)
        row = [x for x in p.stdout.splitlines() if x.startswith("threads")]
        expect(any("2" in x and "50-more.conf:2" in x for x in row), f"threads and its origin: {row}")


def test_port_in_use(case):
    """Each role's port is named, before the model is loaded for nothing."""
    with case.fleet() as f:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            port = s.getsockname()[1]
            h1 = f.expert("h1", "auto", start=False, port=port)
            h1.start(wait=False)
            expect(h1.process.wait(60) != 0, "started on a port in use")
            expect(str(port) in h1.log() and "in use" in h1.log().lower(), f"the port is not named: {h1.log_tail()}")
            h1.process = None
            r1 = f.router("r1", start=False, port=port, shards="auto")
            r1.start(wait=False)
            expect(r1.process.wait(60) != 0, "started on a port in use")
            expect("[router] listen: " in r1.log() and str(port) in r1.log(), f"the port is not named: {r1.log_tail()}")
            r1.process = None
            for node in (h1, r1):
                expect("load" not in node.log(), f"weights were loaded first: {node.log_tail()}")


def test_reload(case):
    """SIGHUP applies what is reloadable, and says what needs a restart."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto")
        with open(h1.config_path, encoding="utf-8") as file:
            text = file.read()
        h1.write_config(text.replace("[node]", "[node]\nlog_level = debug").replace("threads = 1", "threads = 2"))
        r = h1.ctl_json("reload")
        expect(any("log_level" in x for x in r["changed"]), f"changed: {r}")
        expect(any("threads" in x for x in r["needs_restart"]), f"needs_restart: {r}")
        h1.write_config(text + "\n[router]\n")
        expect_equal(h1.ctl_json("reload")["needs_restart"], ["[router]"], "a section without values is a change")
        h1.write_config(text.replace("shards = auto", "shards = L99/*"))
        p = h1.ctl("reload", check=False)
        expect(p.returncode == 1 and "matches no shard" in p.stderr, f"what the model does not have must be refused: {p.stderr}")
        h1.write_config("[node]\nname = \n")
        p = h1.ctl("reload", check=False)
        expect(p.returncode == 1 and h1.alive(), "a wrong file must be refused, the daemon living on")


def test_reloads_from_both_sides(case):
    """SIGHUPs and `expertctl reload` at once: each is taken or refused as a whole, and the last file is what is in force."""
    with case.fleet() as f:
        h1 = f.expert("h1", "auto")
        with open(h1.config_path, encoding="utf-8") as file:
            text = file.read()
        clients = []
        for i in range(10):
            fresh = h1.config_path + ".new"
            with open(fresh, "w", encoding="utf-8") as file:
                file.write(text.replace("[node]", f"[node]\nadmin_group = root\ndrain_s = {i + 1}"))
            os.rename(fresh, h1.config_path)
            h1.signal(signal.SIGHUP)
            clients.append(h1.spawn("reload"))
        for c in clients:
            expect_equal(c.wait(60), 0, f"exit status of a reload: {c.stderr.read()}")
        expect("drain_s          = 10 " in h1.ctl("config").stdout, h1.ctl("config").stdout)
        expect("the old one stays" not in h1.log(), h1.log_tail())


def test_parameters_against_the_model(case):
    """What the model does not have is wrong configuration, with file and line, also for a start: systemd does not try it again."""
    with case.fleet() as f:
        path = os.path.join(f.dir, "expertd.conf")
        sections = good(f)
        sections["router"] = {"listen": f"127.0.0.1:{free_ports(1)[0]}"}
        for section, key, value, wanted in (("expert", "shards", "L99/*", "matches no shard"), ("model", "expert_groups", 4000, "16"),
                                            ("router", "context", 1_000_000, "limit")):
            wrong = {name: dict(keys) for name, keys in sections.items()}
            wrong[section][key] = value
            text = ini(wrong)
            line = text[:text.index(f"{key} = {value}")].count("\n") + 1
            check(f, text, f"{path}:{line}: [{section}] {key} = {value}: ", wanted)
            expect_equal(run(f, "--config", path).returncode, 78, f"exit status of a start with {key} = {value}")


def test_full_disk(case):
    """What cannot be written to stdout is a failure that says so, not a success."""
    with case.fleet() as f:
        path = os.path.join(f.dir, "expertd.conf")
        with open(path, "w", encoding="utf-8") as out:
            out.write(ini(good(f)))
        for argv in ([f.expertd, "--check-config", "--config", path], [f.expertd, "--dump-config", "--config", path],
                     [f.expertd, "--version"], [f.expertd, "--help"], [f.expertctl, "--version"], [f.expertctl, "--help"]):
            with open("/dev/full", "w", encoding="utf-8") as full:
                p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
            expect(p.returncode == 1 and "No space left" in p.stderr, f"{argv}: exit {p.returncode}, {p.stderr!r}")
