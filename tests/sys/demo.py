#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demonstration: one router and two expert hosts on loopback, a question, the answer as it streams, and a clean stop."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fleet  # noqa: E402

QUESTIONS = ["What is 347 + 589?"]


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--root", required=True)
    p.add_argument("--ask", action="append", help="ask this instead (may be repeated)")
    a = p.parse_args()
    directory = tempfile.mkdtemp(prefix="expertd-demo-")
    try:
        with fleet.Fleet(a.root, directory) as f:
            r1, h1, h2 = f.two_hosts()
            status = r1.ctl_json("status")["router"]
            print(f"\nrouter {r1.name} ready · expert hosts {h1.name}, {h2.name} ready · {status['shards_covered']} shards on 2 hosts",
                  flush=True)
            for question in a.ask or QUESTIONS:
                print(f"> {question}", flush=True)
                rc = subprocess.call([f.expertctl, "--socket", r1.admin, "chat", "--stats", question])
                if rc:
                    return rc
        print("stopped: 3 processes ended cleanly", flush=True)
        return 0
    except fleet.Failure as e:
        print(f"demo: {e}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
