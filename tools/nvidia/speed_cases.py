"""What is timed: a row of CASES makes a step. `speed --cases FILE` adds those of a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .speed import Dispatch, Rotated, Same, Step

Case = Callable[[], Step]
GROUP = 64  # columns of a scale
EXTENT = 256  # positions of an extent of the cache


def affine(out_dim: int, in_dim: int, bits: int = 4) -> list[Rotated]:
    """Codes, scales, biases of a matrix with bf16 scales."""
    scales = Rotated("bf16", out_dim * in_dim // GROUP, 0.01)
    return [Rotated("u32", out_dim * in_dim * bits // 32), scales, scales]


def matvec(kernel: str, out_dim: int, in_dim: int, bits: int = 4) -> Case:
    """A kernel of the contract."""

    def case() -> Step:
        x, out = Same("x", "f32", in_dim), Same("out", "f32", out_dim)
        args = [*affine(out_dim, in_dim, bits), x, out, out_dim, in_dim, GROUP]
        return Step([Dispatch(kernel, args)], 2.0 * out_dim * in_dim)

    return case


def qmatvec(kernel: str, out_dim: int, in_dim: int, bits: int = 4) -> Case:
    """The same with a bias of the output that is not there."""

    def case() -> Step:
        x, out = Same("x", "f32", in_dim), Same("out", "f32", out_dim)
        args = [*affine(out_dim, in_dim, bits), x, None, out, out_dim, in_dim, GROUP, 1, 0]
        dispatch = Dispatch(kernel, args, constants={"Bits": bits})
        return Step([dispatch], 2.0 * out_dim * in_dim)

    return case


def qmatmul(kernel: str, n: int, out_dim: int, in_dim: int, bits: int = 4) -> Case:
    def case() -> Step:
        x, out = Same("x", "f32", n * in_dim), Same("out", "f32", n * out_dim)
        args = [*affine(out_dim, in_dim, bits), x, None, out, out_dim, in_dim, GROUP, n, 0]
        dispatch = Dispatch(kernel, args, constants={"Bits": bits})
        return Step([dispatch], 2.0 * n * out_dim * in_dim)

    return case


class Slot:
    """An expert's matrices in `words` of a slot, each part behind the last."""

    def __init__(self, matrices: list[tuple[int, int]], bits: int = 4):
        self.words, self.offsets = 0, list[int]()
        for out_dim, in_dim in matrices:
            scales = out_dim * in_dim // GROUP  # bf16 values
            self.offsets.append(self.words)
            self.words += out_dim * in_dim * bits // 32
            for _ in range(2):
                self.offsets.append(self.words * 2)
                self.words += scales // 2


class Slab(Slot):
    """`n` such slots in one slab."""

    UNIT = 16384  # bytes, of which a slot has a whole number

    def __init__(self, n: int, matrices: list[tuple[int, int]], bits: int = 4):
        super().__init__(matrices, bits)
        units = -(-self.words * 4 // self.UNIT)
        self.entries = np.arange(n, dtype=np.uint32) * units
        self.slabs = [Rotated("u32", n * units * self.UNIT // 4)]


SWIGLU = (0.0, 1.0, 0.0)  # numbers of an activation, which it does not take


def experts(up_and_down: bool, k: int = 8, hidden: int = 768, dim: int = 2048) -> Case:
    """Gate and up of K experts for one row, and down."""

    def case() -> Step:
        gate_up, down = Slab(k, [(hidden, dim)] * 2), Slab(k, [(dim, hidden)])
        middle = Same("middle", "f32", k * hidden)
        args = [
            gate_up.slabs,
            gate_up.entries,
            Same("x", "f32", dim),
            np.zeros(k, np.uint32),
            *[None] * 3,  # biases: numbers of the experts, those of gate and of up
            middle,
        ]
        args += [hidden, dim, GROUP, k, 1, gate_up.words, *gate_up.offsets, 0, *SWIGLU]
        steps = [Dispatch("experts_gate_up_bf16_f32", args)]
        flops = 4.0 * k * hidden * dim
        if up_and_down:
            out = Same("out", "f32", k * dim)
            args = [down.slabs, down.entries, middle, np.arange(k, dtype=np.uint32)]
            args += [None, None, out, dim, hidden, GROUP, k, 1, down.words, *down.offsets, 0]
            steps.append(Dispatch("experts_down_bf16_f32", args))
            flops *= 1.5
        return Step(steps, flops)

    return case


def grouped(tokens: int, n: int, k: int, hidden: int, dim: int) -> Case:
    """Experts of many rows: each token takes `k` of `n` experts, by chance; tiles of 64 rows."""

    def case() -> Step:
        rng = np.random.default_rng(1)
        picks = np.concatenate([rng.permutation(n)[:k] for _ in range(tokens)])
        gate_up, down = Slab(n, [(hidden, dim)] * 2), Slab(n, [(dim, hidden)])
        tiles, rows = list[tuple[int, int, int]](), tokens * k
        for expert, count in enumerate(np.bincount(picks, minlength=n)):
            first = sum(tile[2] for tile in tiles)
            tiles += [(expert, first + i, min(64, count - i)) for i in range(0, count, 64)]
        table = np.array(tiles, np.uint32)

        def of(slab: Slab) -> list[Any]:
            return [slab.slabs, np.column_stack([slab.entries[table[:, 0]], table[:, 1:]])]

        def sizes(slab: Slab, out_dim: int, in_dim: int) -> list[int]:
            return [out_dim, in_dim, GROUP, rows, len(tiles), 1, slab.words, *slab.offsets, 0]

        middle = Same("middle", "f32", rows * hidden)
        x, out = Same("x", "f32", tokens * dim), Same("out", "f32", rows * dim)
        tokens_of = rng.integers(0, tokens, rows).astype(np.uint32)
        places = rng.permutation(rows).astype(np.uint32)
        steps = [
            Dispatch(
                "grouped_gate_up_bf16_f32",
                [
                    *of(gate_up),
                    x,
                    tokens_of,
                    *[None] * 3,
                    middle,
                    *sizes(gate_up, hidden, dim),
                    *SWIGLU,
                ],
            ),
            Dispatch(
                "grouped_down_bf16_f32",
                [*of(down), middle, places, None, None, out, *sizes(down, dim, hidden)],
            ),
        ]
        return Step(steps, 6.0 * rows * hidden * dim)

    return case


def decode_attention(
    kind: str, positions: int, heads: int = 32, kv_heads: int = 4, dim: int = 128
) -> Case:
    """One token over a cache of `positions`, in extents; split as the engine does."""

    def case() -> Step:
        group, width = heads // kv_heads, kv_heads * dim
        queries = 1 if group == 1 else 4 if group <= 4 else 8
        split = 32
        while split < EXTENT and -(-positions // split) > 128:
            split *= 2
        splits, extents = -(-positions // split), -(-positions // EXTENT)
        blocks = [Rotated(kind, EXTENT * width, 0.1) for _ in range(2 * extents)]
        partial = Same("partial", "f32", splits * heads * dim)
        stats = Same("stats", "f32", splits * heads * 2)
        args = [Same("q", "f32", heads * dim), Same("k", "f32", width), Same("v", "f32", width)]
        args += [Same("keys", kind, width), Same("values", kind, width), None, None, None]
        args += [blocks, partial, stats]
        args += [heads, group, width, 0, positions, split, splits, 0, 0, 0, 0]
        args += [extents, extents - 1, 0, 0, 0, 0, dim**-0.5, 1e-6, 1.0]
        merge = [partial, stats, None, Same("out", "f32", heads * dim), heads, dim, splits, 0]
        return Step(
            [
                Dispatch(f"attention_decode_{kind}_{queries}", args, constants={"HeadDim": dim}),
                Dispatch("attention_merge_f32", merge),
            ],
            4.0 * heads * positions * dim,
        )

    return case


CASES: dict[str, Case] = {
    **{
        f"{kernel}-{out_dim}x{in_dim}": matvec(f"dequant_matvec_4bit_{kernel}", out_dim, in_dim)
        for kernel in ("v3", "v4", "v5")
        for out_dim, in_dim in ((65536, 4096), (4096, 4096), (151936, 2048))
    },
    "qmatvec-65536x4096": qmatvec("qmatvec_bf16_f32", 65536, 4096),
    "qmatvec-4096x4096": qmatvec("qmatvec_bf16_f32", 4096, 4096),
    "experts-gate-up-8x768x2048": experts(False),
    "experts-8x768x2048": experts(True),
    "qmatmul-32x768x2048": qmatmul("qmatmul_bf16_f32", 32, 768, 2048),
    "qmatmul-64x768x2048": qmatmul("qmatmul_bf16_f32", 64, 768, 2048),
    "qmatmul-512x768x2048": qmatmul("qmatmul_bf16_f32", 512, 768, 2048),
    "qmatmul-512x4096x4096": qmatmul("qmatmul_bf16_f32", 512, 4096, 4096),
    "qmatmul-4096x4096x4096": qmatmul("qmatmul_bf16_f32", 4096, 4096, 4096),
    "grouped-512-of-128x768x2048": grouped(512, 128, 8, 768, 2048),
    "grouped-2048-of-128x768x2048": grouped(2048, 128, 8, 768, 2048),
    "grouped-512-of-512x512x2048": grouped(512, 512, 10, 512, 2048),
    **{
        f"attention-decode-{kind}-{positions}": decode_attention(kind, positions)
        for kind in ("f32", "bf16")
        for positions in (32768, 4096)
    },
}
