"""A model of one layer, a short convolution, against numpy: `test_mixer.py` runs it.

It needs a moeflux in which that mixer was added.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from moeflux import FormatError, _core
from moeflux.safetensors_header import Tensor
from moeflux.spec import GatedFfn, Layer, Matrix, Spec, Vector, tree

D, VOCAB, WIDTH, HIDDEN, EPS = 32, 40, 4, 8, 1e-5
TOKENS = np.arange(3, 36, 3, dtype=np.uint32) % VOCAB
CHUNK = 4  # rows of a pass: less than the prompt, so that state goes from pass to pass


@dataclass(frozen=True)
class ShortConvolution:
    """What a family gives the mixer."""

    kind: ClassVar[str] = "short_convolution"
    width: int
    conv: Vector
    out: Matrix


class Weights:
    """Random weights, and the spec of a model of one layer whose network gives nothing."""

    def __init__(self):
        random = np.random.default_rng(1)
        self.arrays, self.end = {}, 0

        def array(name, *shape, scale=1.0, shift=0.0):
            values = random.standard_normal(shape).astype(np.float32) * scale + shift
            self.arrays[name] = values.astype(np.float32)
            place = Tensor(name, 0, self.end, values.size * 4, "F32", shape)
            self.end += place.nbytes
            return place

        def vector(name, n, **how):
            return Vector(array(name, n, **how), n, 0.0)

        def matrix(name, out, columns, scale=1.0):
            return Matrix(out, columns, "f32", 0, "F32",
                          array(name, out, columns, scale=scale / columns**0.5))  # fmt: skip

        norm = {"scale": 0.1, "shift": 1}
        self.layer = Layer(
            vector("norm", D, **norm),
            ShortConvolution(WIDTH, vector("conv", D * WIDTH), matrix("out", D, D)),
            vector("ffn_norm", D),
            GatedFfn(gate=matrix("gate", HIDDEN, D), up=matrix("up", HIDDEN, D),
                     down=matrix("down", D, HIDDEN, scale=0.0)),
        )  # fmt: skip
        self.spec = Spec(
            vocab=VOCAB, d_model=D, eps=EPS, chunk=CHUNK, inv_freq=[], positions=0,
            embed=matrix("embed", VOCAB, D, scale=2.0), layers=[self.layer],
            final_norm=vector("final_norm", D, **norm), head=matrix("head", VOCAB, D),
        )  # fmt: skip

    def with_mixer(self, mixer, **of_layer):
        """The spec with another mixer."""
        return replace(self.spec, layers=[replace(self.layer, mixer=mixer, **of_layer)])

    def logits(self, tokens):
        """By the formula, in float64."""
        w = {name: values.astype(np.float64) for name, values in self.arrays.items()}

        def norm(x, weight):
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight

        x = w["embed"][tokens]
        inputs = np.concatenate([np.zeros((WIDTH - 1, D)), norm(x, w["norm"])])
        taps = w["conv"].reshape(D, WIDTH)
        y = sum(taps[:, j] * inputs[j : j + len(x)] for j in range(WIDTH))
        x = x + (y / (1 + np.exp(-y))) @ w["out"].T
        return norm(x, w["final_norm"]) @ w["head"].T

    def load(self, folder, spec=None, **compute):
        path = folder / "weights"
        path.write_bytes(b"".join(values.tobytes() for values in self.arrays.values()))
        return _core.load_model(
            spec=tree(spec or self.spec), files=[bytes(path)], memory_bytes=256 << 20, direct=False,
            compute=_core.Compute(n_threads=2, **compute),
            options=_core.Options(context=64, read_threads=2, read_ahead=False),
        )  # fmt: skip


def step(model, *items):
    """The logits of every token of a session's, for each item (session, tokens)."""
    done, _ = model.step_batch([(s, t, None, 0) for s, t in items], "all", [])
    return [out["logits"] for out in done]


def compare(model, weights):
    """Prompt, single tokens and a pass of two sessions."""

    first, second = model.session(), model.session()
    [prompt] = step(model, (first, TOKENS[:9]))
    more, other = step(model, (first, TOKENS[9:10]), (second, TOKENS[5:8]))
    [last] = step(model, (first, TOKENS[10:]))
    expected = weights.logits(TOKENS)
    assert np.abs(expected).max() > 1
    assert np.abs(np.concatenate([prompt, more, last]) - expected).max() < 1e-4
    assert np.abs(other - weights.logits(TOKENS[5:8])).max() < 1e-4


def main(folder):
    weights = Weights()
    compare(weights.load(folder), weights)
    compare(weights.load(folder, device=_core.NativeDevice("host")), weights)
    narrow = weights.with_mixer(replace(weights.layer.mixer, width=WIDTH - 1))
    try:
        weights.load(folder, narrow)
    except FormatError as error:
        assert "conv: expected 96 numbers, found 128 (tensor conv)" in str(error), error
    else:
        raise AssertionError("a convolution of another width was not refused")
    print("computes as numpy")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
