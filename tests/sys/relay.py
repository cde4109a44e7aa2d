#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A long cable: two taps whose frames come out of the other end DELAY_MS later, in order.

relay.py TAP_A TAP_B DELAY_MS    makes the taps, prints "ready", relays until its input ends. What is too much for it is dropped, as by
any switch.
"""

import collections
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
QUEUE_MAX = 65536
FRAME_MAX = 65536


def open_tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def take(fd, queue, delay):
    """Everything that has come in, each frame with the time when it is due at the other end."""
    while True:
        try:
            frame = os.read(fd, FRAME_MAX)
        except OSError:  # nothing more, or the tap is down
            return
        if len(queue) < QUEUE_MAX:
            queue.append((time.monotonic() + delay, frame))


def give(fd, queue):
    now = time.monotonic()
    while queue and queue[0][0] <= now:
        try:
            os.write(fd, queue.popleft()[1])
        except OSError:  # the tap is down or full: the frame is lost, as on any wire
            pass


def main():
    a, b, delay = open_tap(sys.argv[1]), open_tap(sys.argv[2]), float(sys.argv[3]) / 1000
    to_a, to_b = collections.deque(), collections.deque()
    poll = select.poll()
    for fd in (a, b, 0):
        poll.register(fd, select.POLLIN)
    print("ready", flush=True)
    while True:
        due = min((q[0][0] for q in (to_a, to_b) if q), default=None)
        wait = None if due is None else max(0, (due - time.monotonic()) * 1000)
        for fd, _ in poll.poll(wait):
            if fd == 0:
                return
            take(fd, to_b if fd == a else to_a, delay)
        give(a, to_a)
        give(b, to_b)


if __name__ == "__main__":
    main()
