"""Run by test_format.py over the tree with the added format: a model of toy4 against its twin.

The twin has the same numbers as float32; the oracle computes its logits in float64.
"""

import os
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np

from moeflux import _core
from moeflux.checkpoint import open_checkpoint
from moeflux.families import build_spec
from moeflux.identity import Identity
from moeflux.model import Model
from moeflux.spec import ExpertMatrix, Matrix, Slices, tree
from oracle import Reference, build

WORK = Path(sys.argv[1])
TABLE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
TOKENS = list(range(3, 60, 4))


def quantised(values):
    """Rows as blocks (uint8), and what they mean (float32)."""
    groups = values.reshape(-1, 2, 16)
    scales = (np.abs(groups).max(-1, keepdims=True) / 127).astype("<f2")
    wide = scales.astype(np.float32)
    ratio = np.divide(groups, wide, out=np.zeros_like(groups), where=wide != 0)
    codes = np.abs(ratio[..., None] - TABLE).argmin(-1).astype(np.uint8)
    blocks = np.concatenate([scales.reshape(-1, 2).view(np.uint8),
                             codes[:, 0] | codes[:, 1] << 4], axis=-1)  # fmt: skip
    return blocks, (TABLE[codes] * wide).astype(np.float32).reshape(values.shape)


class Converter:
    """Writes each matrix of a checkpoint of float32 as blocks, and its meaning back in place."""

    def __init__(self, checkpoint, blocks):
        self.files = [np.memmap(file, np.uint8, "r+") for file in checkpoint.files]
        self.number, self.out, self.at, self.count = len(checkpoint.files), blocks, 5, 0
        self.out.write(bytes(self.at))  # nothing is aligned
        self.done = {}

    def place(self, shape, file, offset):
        """Offset of the blocks of the matrix that lies there."""
        if (file, offset) not in self.done:
            stored = self.files[file][offset : offset + 4 * shape.out * shape.columns]
            blocks, meant = quantised(stored.view(np.float32).reshape(shape.out, shape.columns))
            stored[:] = meant.view(np.uint8).reshape(-1)
            self.out.write(blocks.tobytes())
            self.done[file, offset] = self.at
            self.at += blocks.nbytes
            self.count += 1
        return self.done[file, offset]

    def convert(self, node):
        """The spec's part with matrices of toy4."""
        if isinstance(node, list):
            return [self.convert(item) for item in node]
        if not is_dataclass(node):
            return node
        form = {"format": "toy4", "group": 16, "dtype": "F16"}
        nbytes = getattr(node, "out", 0) * getattr(node, "columns", 0) // 32 * 20
        if isinstance(node, Matrix):
            place = self.place(node, node.weight.file, node.weight.offset)
            weight = replace(node.weight, file=self.number, offset=place, nbytes=nbytes, dtype="U8")
            return replace(node, **form, weight=weight)
        if isinstance(node, ExpertMatrix):
            where = zip(node.weight.files, node.weight.offsets, strict=True)
            places = [self.place(node, int(file), int(offset)) for file, offset in where]
            files = np.full(len(places), self.number, np.uint32)
            return replace(node, **form,
                           weight=Slices(files, np.array(places, np.uint64), nbytes))  # fmt: skip
        return replace(node, **{f.name: self.convert(getattr(node, f.name)) for f in fields(node)})


def main():
    folder = build(WORK / "twin", "qwen3_moe", "hf-f32", experts="split", branch_gain=0.25)
    checkpoint = open_checkpoint(folder)
    with (WORK / "blocks").open("wb") as blocks:
        converter = Converter(checkpoint, blocks)
        spec = converter.convert(build_spec(checkpoint))
    del converter.files
    expected = Reference(folder).forward(TOKENS).logits
    assert converter.count > 200 and np.abs(expected).max() > 1, converter.count
    every = []
    for slots in (4, 1000):
        native = _core.load_model(
            spec=tree(spec), files=[os.fsencode(f) for f in (*checkpoint.files, WORK / "blocks")],
            memory_bytes=64 << 20, direct=True, compute=_core.Compute(n_threads=2),
            options=_core.Options(context=64, read_threads=3, read_ahead=False, max_slots=slots),
        )  # fmt: skip
        model = Model(native, folder, checkpoint.config, spec, Identity(checkpoint))
        every.append(model.session().step(TOKENS, all_logits=True))
        error = np.abs(every[-1] - expected)
        assert error.max() <= 2e-4 and error.mean() <= 2e-5, (error.max(), error.mean())
        assert model.stats["misses"] > 20, model.stats
    assert np.array_equal(*every)
    print("followed", converter.count, "matrices,", float(error.max()))


main()
