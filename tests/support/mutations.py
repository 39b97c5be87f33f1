"""Damage of files at random, as disks, networks and attackers do it."""

from __future__ import annotations

import random
import struct

_NUMBERS = (0, 1, 4, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)


def mutate(content: bytes, seed: int) -> bytes:
    """Return a damaged copy; half of the changes hit the first and last 4,000 bytes."""
    rng = random.Random(seed)
    changed = bytearray(content)

    def index(margin: int = 1) -> int:
        last = len(changed) - margin
        if rng.random() < 0.5:
            return rng.randint(0, last)
        near = rng.randint(0, min(4_000, last))
        return rng.choice([near, last - near])

    kind = rng.choice(["bits", "bytes", "numbers", "sizes", "cut", "insert", "copy"])
    for _ in range(rng.randint(1, 8)):
        if kind == "bits":
            changed[index()] ^= 1 << rng.randrange(8)
        elif kind == "bytes":
            changed[index()] = rng.randrange(256)
        elif kind == "numbers":  # offsets and lengths are aligned 32-bit numbers
            at = index(4) // 4 * 4
            number = rng.choice([*_NUMBERS, len(content), rng.randrange(len(content))])
            struct.pack_into("<I", changed, at, number)
        elif kind == "sizes":
            at = index(4) // 4 * 4
            (number,) = struct.unpack_from("<I", changed, at)
            factor = rng.choice([2, 3, 256, 2**16, 2**24])
            struct.pack_into("<I", changed, at, (number * factor) % 2**32)
        elif kind == "copy":
            one, other, size = index(64), index(64), rng.choice([4, 8, 64])
            changed[one : one + size] = changed[other : other + size]
    if kind == "cut":
        del changed[rng.randrange(len(changed)) :]
    elif kind == "insert":
        at = index()
        changed[at:at] = rng.randbytes(rng.randint(1, 9))
    return bytes(changed)
