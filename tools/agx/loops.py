"""What a turn of a kernel's inner loop takes, read off its assembly.

Conversions, extracts of bit fields, shifts and integer multiply-adds go through a unit that four
schedulers share: 4 cycles for each of them. Others take 1, additions in 64 bits 4, a SIMD-group
reduction 24. (Measured by philipturner/metal-benchmarks on M1.)
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_SHARED = {"convert", "bfeil", "extr", "bfi", "imad", "asr", "floor", "rcp", "rsqrt", "exp2",
           "log2", "sin_pt_1", "sin_pt_2", "lshl", "bitrev"}  # fmt: skip
_MEMORY = {"device_load", "local_load", "local_store", "device_store"}
_CONTROL = re.compile(
    r"while_|jmp_|if_|else_|pop_exec|push_exec|break|wait|slot|nest|begin_cf|stop|\?"
)
_BLOCK = re.compile(r"^block(\d+) \{$")
_OPERATION = re.compile(r"([a-z_][a-z0-9_]*)")
_WIDE_ADD = re.compile(r"^r\d+:r\d+ = iadd")


@dataclass(frozen=True)
class Turn:
    """Of the inner loop: cycles of one scheduler for one SIMD group."""

    instructions: int
    shared: int  # cycles of the unit that four schedulers share
    other: int  # cycles of the rest of the arithmetic
    device_loads: int
    threadgroup_loads: int
    multiply_adds: int


@dataclass
class _Block:
    number: int
    lines: list[str]
    successors: list[int]


def inner_loop(assembly: str) -> Turn | None:
    """Of `loops`, the one with the most multiply-adds, then the most instructions; or None."""
    return max(loops(assembly), key=lambda t: (t.multiply_adds, t.instructions), default=None)


def loops(assembly: str) -> list[Turn]:
    """Every loop, in the order of the assembly: its own instructions, not those of loops in it."""
    blocks = _blocks(assembly)
    place = {block.number: i for i, block in enumerate(blocks)}
    ends: dict[int, int] = {}  # of a loop's first block, its last: the farthest that jumps back
    for i, block in enumerate(blocks):
        ends |= {place[to]: i for to in block.successors if place[to] <= i}
    own: dict[int, list[str]] = {}
    for i, block in enumerate(blocks):
        around = [start for start, end in ends.items() if start <= i <= end]
        if around:
            own.setdefault(max(around), []).extend(block.lines)
    return [_turn(own[start]) for start in sorted(own)]


def _blocks(assembly: str) -> list[_Block]:
    blocks: list[_Block] = []
    for line in assembly.splitlines():
        text = line.strip()
        start = _BLOCK.match(text)
        if start:
            blocks.append(_Block(int(start[1]), [], []))
        elif text.startswith("}"):
            after = text.split("->")[1].split(" from ")[0] if "->" in text else ""
            blocks[-1].successors = [int(n) for n in re.findall(r"block(\d+)", after)]
        elif text and blocks:
            blocks[-1].lines.append(text)
    return blocks


def _turn(lines: list[str]) -> Turn:
    counts = Counter(map(_operation, lines))
    wide = sum(bool(_WIDE_ADD.match(line)) for line in lines)
    shared = sum(n for name, n in counts.items() if name in _SHARED)
    arithmetic = sum(
        n
        for name, n in counts.items()
        if name not in _SHARED | _MEMORY and not _CONTROL.match(name)
    )
    return Turn(
        len(lines),
        4 * shared,
        arithmetic + 3 * wide + 23 * counts["simd_reduce"],
        counts["device_load"],
        counts["local_load"],
        counts["ffma"] + counts["hfma"],
    )


def _operation(line: str) -> str:
    match = _OPERATION.match(line.rsplit(" = ", 1)[-1])
    return match[1] if match else "?"
