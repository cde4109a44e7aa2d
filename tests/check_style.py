#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds every source file to what a machine can check of the style: an SPDX head, functions and files of bounded length,
no unfinished-work marks, and C as clang-format writes it.

check_style.py [ROOT]      checks the tree at ROOT (default: $srcdir, or the tree that this file is in)
check_style.py --self-test plants one offence of every kind in a scratch tree and wants each of them named

Exit status: 0 held, 1 broken, 77 held as far as it could be checked (ctags or clang-format missing or of another version).
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

FUNCTION_LINES_MAX = 90
FILE_LINES_MAX = 700
CLANG_FORMAT_MAJOR = 14  # others format differently: Debian 12's is the rule
C_SUFFIXES = (".c", ".h", ".cu", ".cuh")
SUFFIXES = C_SUFFIXES + (".py", ".sh", ".bats", ".mk", ".am", ".ac", ".proto", ".scd")
TOPS = ("daemon", "plugins", "kernels", "proto", "systemd", "tests", "docs", ".ci")
TOP_FILES = ("Makefile.am", "configure.ac", "bootstrap")
SKIP_DIRS = {"build-aux", "m4", "__pycache__", ".deps", ".libs"}
GENERATED = re.compile(r"\.pb-c\.[ch]$|^proto/descriptors\.c$")
MARKS = re.compile(r"\b(%s)\b" % "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")))


def sources(root):
    for f in TOP_FILES:
        if os.path.isfile(os.path.join(root, f)):
            yield f
    for top in TOPS:
        for folder, dirs, files in os.walk(os.path.join(root, top)):
            dirs[:] = sorted(d for d in dirs if d not in SKIP_DIRS)
            for f in sorted(files):
                path = os.path.relpath(os.path.join(folder, f), root)
                if (f.endswith(SUFFIXES) or path == ".ci/run") and not GENERATED.search(path):
                    yield path


def check_text(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as f:
        lines = f.read().split("\n")
    found = []
    if not any("SPDX-License-Identifier: Apache-2.0" in line for line in lines[:3]):
        found.append("%s:1: no SPDX head in the first three lines" % path)
    if len(lines) - 1 > FILE_LINES_MAX:
        found.append("%s:1: %d lines, more than %d" % (path, len(lines) - 1, FILE_LINES_MAX))
    for i, line in enumerate(lines, 1):
        m = MARKS.search(line)
        if m:
            found.append("%s:%d: %s: an unfinished thing is not merged" % (path, i, m.group(1)))
    return found


def run(argv, root):
    return subprocess.run(argv, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", check=False)


def check_functions(root, paths):
    """Functions longer than FUNCTION_LINES_MAX, by universal-ctags. Returns (found, why it could not be checked or None)."""
    if not shutil.which("ctags"):
        return [], "ctags is not installed: function lengths not checked"
    p = run(["ctags", "--output-format=json", "--fields=+ne", "--kinds-C=f", "--kinds-Python=fm", "--langmap=C:+.h.cu.cuh",
             "-o", "-"] + paths, root)
    if p.returncode != 0:
        return [], "ctags cannot write JSON (universal-ctags is needed): function lengths not checked"
    found = []
    for line in p.stdout.splitlines():
        t = json.loads(line)
        n = t.get("end", t["line"]) - t["line"] + 1
        if t["_type"] == "tag" and n > FUNCTION_LINES_MAX:
            found.append("%s:%d: %s() has %d lines, more than %d" % (t["path"], t["line"], t["name"], n, FUNCTION_LINES_MAX))
    return found, None


def check_format(root, paths):
    """Files that clang-format would change. Returns (found, why it could not be checked or None)."""
    for tool in ("clang-format-%d" % CLANG_FORMAT_MAJOR, "clang-format"):
        if shutil.which(tool):
            version = re.search(r"version (\d+)", run([tool, "--version"], root).stdout)
            if version and int(version.group(1)) == CLANG_FORMAT_MAJOR:
                break
    else:
        return [], "clang-format %d is not installed: formatting not checked" % CLANG_FORMAT_MAJOR
    p = run([tool, "--dry-run", "-Werror", "--style=file"] + paths, root)
    found = {}
    for line in p.stderr.splitlines():
        m = re.match(r"(.+?):(\d+):\d+: error: ", line)
        if m:
            found.setdefault(m.group(1), int(m.group(2)))
    found = ["%s:%d: not as clang-format writes it (clang-format -i %s)" % (f, n, f) for f, n in sorted(found.items())]
    if p.returncode != 0 and not found:
        found = ["clang-format failed: %s" % (p.stderr.strip() or p.returncode)]
    return found, None


def check_tree(root):
    """Returns (what was found, what could not be checked, number of files)."""
    paths = list(sources(root))
    found, unchecked = [], []
    for path in paths:
        found += check_text(root, path)
    functions = [p for p in paths if p.endswith(C_SUFFIXES + (".py",))]
    formatted = [p for p in paths if p.endswith((".c", ".h"))]
    for check, those in ((check_functions, functions), (check_format, formatted)):
        more, why = check(root, those) if those else ([], None)
        found += more
        unchecked += [why] if why else []
    return found, unchecked, len(paths)


# --- self-test --------------------------------------------------------------------------------------------------------
HEAD = "/* SPDX-License-Identifier: Apache-2.0 */\n"
PLANTED = [
    ("daemon/a/good.c", HEAD + "int f(void)\n{\n\treturn 1;\n}\n", None),
    ("daemon/a/good.py", "#!/usr/bin/env python3\n# SPDX-License-Identifier: Apache-2.0\n", None),
    ("proto/x.pb-c.c", "int generated;\n", None),
    ("daemon/a/nohead.c", "int f(void)\n{\n\treturn 1;\n}\n", "no SPDX head"),
    ("daemon/a/local.mk", "# nothing\n", "no SPDX head"),
    ("daemon/a/mark.c", HEAD + "/* " + "TO" + "DO: later */\n", "unfinished"),
    ("tests/long.sh", "# SPDX-License-Identifier: Apache-2.0\n" + ":\n" * FILE_LINES_MAX, "more than %d" % FILE_LINES_MAX),
    ("daemon/a/deep.c", HEAD + "int f(int a)\n{\n" + "\ta++;\n" * FUNCTION_LINES_MAX + "\treturn a;\n}\n", "f() has"),
    ("daemon/a/ugly.h", HEAD + "int  f(void);\n", "not as clang-format"),
    ("daemon/a/ugly.c", HEAD + "int f( void ) { return 1; }\n", "not as clang-format"),
]


def self_test(style):
    bad = []
    with tempfile.TemporaryDirectory() as root:
        shutil.copy(style, os.path.join(root, ".clang-format"))
        for path, text, _ in PLANTED:
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as f:
                f.write(text)
        found, unchecked, _ = check_tree(root)
        for path, _, want in PLANTED:
            of_path = [f for f in found if f.startswith(path)]
            could_not = unchecked and want in ("f() has", "not as clang-format")
            if (want is None and of_path) or (want and not any(want in f for f in of_path) and not could_not):
                bad.append("%s: wanted %r, found %r" % (path, want, of_path))
    return bad


def main():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    bad = self_test(os.path.join(here, ".clang-format"))
    if bad:
        print("check_style: self-test failed\n" + "\n".join(bad))
        return 1
    if sys.argv[1:] == ["--self-test"]:
        return 0
    found, unchecked, n = check_tree(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("srcdir", here))
    for line in found + unchecked:
        print(line)
    print("check_style: %d files, %d offences" % (n, len(found)))
    return 1 if found or n == 0 else 77 if unchecked else 0


if __name__ == "__main__":
    sys.exit(main())
