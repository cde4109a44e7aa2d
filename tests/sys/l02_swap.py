# SPDX-License-Identifier: Apache-2.0
"""Fifty swaps of live shards in a row, half of them to bad plugins; memory after is memory before, within 2 %."""

import time

from fleet import expect
from s01_swap import row_of_swaps


def test_fifty(case):
    resident = {}

    def watch(hosts):
        time.sleep(3)  # what lingers is unloaded after a second
        for h in hosts:
            resident.setdefault(h.name, []).append(h.ctl_json("status")["resident_bytes"])

    # few recorded batches: that memory fills up by the by, swaps or none
    row_of_swaps(case, 50, watch, linger_s=1, record_bytes="1M")
    for name, (before, after) in resident.items():
        print(f"    {name}: {before >> 10} KiB resident before 50 swaps, {after >> 10} KiB after", flush=True)
        if not case.sanitized:
            expect(after <= before * 1.02, f"{name} grew from {before} to {after} bytes")
