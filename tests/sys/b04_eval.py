# SPDX-License-Identifier: Apache-2.0
"""tiny-r1's 1,000 held-out questions, asked through a router and two expert hosts: at least 99 % exact."""

import os
import subprocess
import sys

import fleet
from fleet import expect


def test_held_out_questions(case):
    with case.fleet() as f:
        r1, _, _ = f.two_hosts()
        p = subprocess.run([sys.executable, os.path.join(fleet.TOP, "tests/models/eval.py"), "--socket", r1.admin, "--min", "0.99",
                            "--concurrency", "32"], capture_output=True, text=True, timeout=1800, check=False)
        print(p.stdout)
        expect(p.returncode == 0, f"eval: exit {p.returncode}\n{p.stdout[-3000:]}{p.stderr[-2000:]}")


test_held_out_questions.heavy = True  # minutes under a sanitizer
