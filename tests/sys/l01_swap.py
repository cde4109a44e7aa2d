# SPDX-License-Identifier: Apache-2.0
"""Fifty swaps of live shards in a row, half of them to bad plugins; memory after is memory before, within 2 %."""

import time

from fleet import expect
from s01_swap import row_of_swaps

WARM = 10  # swaps, until every host has had each plugin once


def test_fifty(case):
    resident = {}

    def watch(i, hosts):
        if i not in (WARM - 1, WARM + 49):
            return
        time.sleep(3)  # what lingers is unloaded after a second
        for h in hosts:
            resident.setdefault(h.name, []).append(h.ctl_json("status")["resident_bytes"])

    row_of_swaps(case, WARM + 50, linger_s=1, watch=watch)
    for name, (before, after) in resident.items():
        print(f"    {name}: {before >> 10} KiB resident after {WARM} swaps, {after >> 10} KiB after 50 more", flush=True)
        if not case.sanitized:
            expect(after <= before * 1.02, f"{name} grew from {before} to {after} bytes")
