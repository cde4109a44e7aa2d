#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the tree to its include rule: a file includes its own folder and lower layers, never sideways or up.

check_includes.py [ROOT]     checks the tree at ROOT (default: $srcdir, or the tree that this file is in)
check_includes.py --self-test plants one violation of every kind in a scratch tree and wants each of them named

Comments and strings are not looked at. An include in quotes must name a file of the tree, or a generated one.
"""
import os
import re
import sys
import tempfile

# --- the rule -------------------------------------------------------------------------------------------------------
# Room -> the other rooms whose headers it may include. "abi" is daemon/include (expertd/plugin.h). L0 base; L1 model, net;
# L2 fleet, expert, trunk; L3 engine; L4 gateway, admin; L5 core. No room sees a sibling of its layer.
L1 = ["base", "abi"]
L2 = L1 + ["model", "net"]
L3 = L2 + ["fleet", "expert", "trunk"]
L4 = L3 + ["engine"]
L5 = L4 + ["gateway", "admin"]
MAY_SEE = {
    "abi": [],
    "base": ["abi"],
    "model": L1,
    "net": L1,
    "fleet": L2,
    "expert": L2,
    "trunk": L2,
    "engine": L3,
    "gateway": L4,
    "admin": L4,
    "core": L5,
    "ctl": L2,  # a client of proto/; also the headers in ALSO below
    "kernels": [],
    "plugins": ["abi", "kernels"],
}
# Room -> single headers of rooms that it does not see.
ALSO = {
    "ctl": ["expert/loader.h", "expert/conformance.h", "fleet/hostfile.h", "fleet/placement.h", "fleet/planner.h", "fleet/simulate.h", "fleet/trace.h"],
    "plugins": ["trunk/ops.h", "base/dtype.h"],
    "kernels": ["base/dtype.h", "expertd/plugin.h"],
}
# System or generated header -> the rooms, or single files, that may include it. Other headers are free.
OWNED = {
    r"grpc/.*": ["net"],
    r"dlfcn\.h": ["expert/loader.c"],
    r"ini\.h": ["core", "base/params.c"],
    r"expertd/.*\.pb-c\.h": ["net", "fleet", "expert", "engine", "admin", "gateway", "ctl"],
    r"grpc/(health|reflection)/.*\.pb-c\.h": ["net", "ctl"],
    r"etcd/.*\.pb-c\.h": ["fleet"],
    r"sqlite3\.h": ["gateway/store_sqlite.h"],
    r"libpq-fe\.h": ["gateway/store_pg.h"],
}
# Called function -> the rooms, or single files, that may call it.
CALLERS = {
    "dlopen": ["expert/loader.c"],
    "dlmopen": ["expert/loader.c"],
    "ini_parse": ["core", "base/params.c"],
    "ini_parse_file": ["core", "base/params.c"],
    "ini_parse_string": ["core", "base/params.c"],
}
GENERATED = re.compile(r"(config\.h|.*\.pb-c\.h|build/.*\.h)$")
SUFFIXES = (".c", ".h", ".cu", ".cuh", ".inc")
SKIP_DIRS = {"build-aux", "m4", ".deps", ".libs"}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)
COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def strip_comments(text):
    """Comments become blanks; strings stay, for the include lines need them. Line numbers are kept."""

    def blank(m):
        s = m.group(0)
        return re.sub(r"[^\n]", " ", s) if s.startswith("/") else s

    return COMMENT.sub(blank, text)


def strip_strings(text):
    return re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)


def room_of(path):
    """"daemon/net/msg.h" -> "net"; None for a file that the rule says nothing about (tests)."""
    parts = path.split("/")
    if parts[0] == "daemon":
        return "abi" if parts[1] == "include" else parts[1]
    return parts[0] if parts[0] in ("plugins", "kernels") else None


def name_of(path):
    """The path as other files include it: "net/msg.h", "expertd/plugin.h"."""
    for prefix in ("daemon/include/", "daemon/"):
        if path.startswith(prefix):
            return path[len(prefix):]
    return path


def resolve(root, path, header):
    """The tree's file that `#include "header"` in `path` means, or None. Tried: beside the file, then the -I folders."""
    for base in (os.path.dirname(path), "daemon", "daemon/include", ""):
        p = os.path.normpath(os.path.join(base, header))
        if not p.startswith("..") and os.path.isfile(os.path.join(root, p)):
            return p
    return None


def allowed(owners, room, name):
    return room in owners or name in owners


def check_include(root, path, header, quoted):
    """Text of what is wrong with one include, or None."""
    room, name = room_of(path), name_of(path)
    for pattern, owners in OWNED.items():
        if re.fullmatch(pattern, header):
            return None if allowed(owners, room, name) else "<%s> belongs to %s" % (header, ", ".join(owners))
    target = resolve(root, path, header)
    if target is None:
        if not quoted or GENERATED.match(header):
            return None
        return '"%s" names no file of the tree' % header
    to = room_of(target)
    if to is None:
        return '"%s" is not part of the daemon, the plugins or the kernels' % header
    if to == room or to in MAY_SEE[room] or name_of(target) in ALSO.get(room, []):
        return None
    return '%s/ may not see %s/ ("%s"); it sees %s' % (
        room, to, header, ", ".join(MAY_SEE[room] + ALSO.get(room, [])) or "itself alone")


def check_file(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as f:
        text = strip_comments(f.read())
    room, name = room_of(path), name_of(path)
    if room not in MAY_SEE:
        return ["%s:1: folder %s/ is not in the table of tests/check_includes.py" % (path, room)]
    found = []

    def say(at, what):
        found.append("%s:%d: %s" % (path, text.count("\n", 0, at) + 1, what))

    for m in INCLUDE.finditer(text):
        why = check_include(root, path, m.group(2), m.group(1) == '"')
        if why:
            say(m.start(2), why)
    code = strip_strings(text)
    for fn, owners in CALLERS.items():
        for m in re.finditer(r"\b%s\s*\(" % fn, code):
            if not allowed(owners, room, name):
                found.append("%s:%d: %s() is called by %s only" % (
                    path, code.count("\n", 0, m.start()) + 1, fn, ", ".join(owners)))
    return found


def sources(root):
    for top in ("daemon", "plugins", "kernels"):
        for folder, dirs, files in os.walk(os.path.join(root, top)):
            dirs[:] = sorted(d for d in dirs if d not in SKIP_DIRS)
            for f in sorted(files):
                if f.endswith(SUFFIXES):
                    yield os.path.relpath(os.path.join(folder, f), root)


def check_tree(root):
    found, n = [], 0
    for path in sources(root):
        n += 1
        found += check_file(root, path)
    return found, n


# --- self-test --------------------------------------------------------------------------------------------------------
# (file, its text, a word of the message that must come; None: must pass)
PLANTED = [
    ("daemon/base/err.h", "", None),
    ("daemon/base/dtype.h", "", None),
    ("daemon/include/expertd/plugin.h", "#include <stdint.h>\n", None),
    ("daemon/net/loop.h", '#include "base/err.h"\n#include <grpc/grpc.h>\n', None),
    ("daemon/model/config.h", '#include "base/err.h"\n', None),
    ("daemon/trunk/ops.h", '#include "expertd/plugin.h"\n', None),
    ("daemon/trunk/trunk.h", '#include "model/config.h"\n#include "ops.h"\n', None),
    ("daemon/expert/loader.c", "#include <dlfcn.h>\nvoid *f(void) { return dlopen(0, 0); }\n", None),
    ("daemon/expert/loader.h", "", None),
    ("daemon/ctl/main.c", '#include "expert/loader.h"\n#include "expertd/admin.pb-c.h"\n', None),
    ("kernels/cpu/gemv.h", '#include "base/dtype.h"\n', None),
    ("plugins/cpu/cpu.c", '#include "trunk/ops.h"\n#include "kernels/cpu/gemv.h"\n', None),
    ("daemon/engine/ok.c", '/* #include "core/main.h" */\nconst char *s = "dlopen(";\n#include "trunk/trunk.h"\n', None),
    ("daemon/base/up.c", '#include "model/config.h"\n', "base/ may not see model/"),
    ("daemon/model/side.c", '#include "net/loop.h"\n', "model/ may not see net/"),
    ("daemon/model/dots.c", '#include "../net/loop.h"\n', "model/ may not see net/"),
    ("daemon/expert/side.c", '#include "trunk/trunk.h"\n', "expert/ may not see trunk/"),
    ("daemon/ctl/deep.c", '#include "trunk/trunk.h"\n', "ctl/ may not see trunk/"),
    ("daemon/engine/grpc.c", "#include <grpc/grpc.h>\n", "belongs to net"),
    ("daemon/core/pb.c", '#include "expertd/experts.pb-c.h"\n', "belongs to net"),
    ("daemon/core/etcd.c", '#include "etcd/rpc.pb-c.h"\n', "belongs to fleet"),
    ("daemon/engine/ini.c", "#  include <ini.h>\n", "belongs to core"),
    ("daemon/engine/dl.c", "extern void *dlopen(const char *, int);\n", "dlopen() is called by expert/loader.c"),
    ("daemon/trunk/lost.c", '#include "trunk/gone.h"\n', "names no file"),
    ("daemon/attic/x.c", "\n", "is not in the table"),
    ("plugins/cpu/deep.c", '#include "trunk/trunk.h"\n', "plugins/ may not see trunk/"),
    ("kernels/cpu/up.c", '#include "base/err.h"\n', "kernels/ may not see base/"),
]


def self_test():
    bad = []
    with tempfile.TemporaryDirectory() as root:
        for path, text, _ in PLANTED:
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as f:
                f.write(text)
        for path, _, want in PLANTED:
            found = check_file(root, path)
            if (want is None and found) or (want is not None and not any(want in f for f in found)):
                bad.append("%s: wanted %r, found %r" % (path, want, found))
        if len(check_tree(root)[0]) < sum(1 for p in PLANTED if p[2]):
            bad.append("the walk over the tree missed planted files")
    return bad


def main():
    bad = self_test()
    if bad:
        print("check_includes: self-test failed\n" + "\n".join(bad))
        return 1
    if sys.argv[1:] == ["--self-test"]:
        return 0
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    root = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("srcdir", here)
    found, n = check_tree(root)
    for line in found:
        print(line)
    print("check_includes: %d files, %d against the rule" % (n, len(found)))
    return 1 if found or n == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
