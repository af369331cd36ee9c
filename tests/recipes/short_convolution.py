"""A model of one layer, a short convolution, against numpy: `test_mixer.py` runs it.

It needs a moeflux in which that mixer was added.
"""

import sys
from pathlib import Path

import numpy as np

from moeflux import FormatError, _core

NAME = "short_convolution"
D, VOCAB, WIDTH, HIDDEN, EPS = 32, 40, 4, 8, 1e-5
TOKENS = np.arange(3, 36, 3, dtype=np.uint32) % VOCAB
CHUNK = 4  # rows of a pass: less than the prompt, so that state goes from pass to pass


class Weights:
    """Random weights, and the spec of a model of one layer whose network gives nothing."""

    def __init__(self):
        random = np.random.default_rng(1)
        self.arrays, self.end = {}, 0

        def array(name, *shape, scale=1.0, shift=0.0):
            values = random.standard_normal(shape).astype(np.float32) * scale + shift
            self.arrays[name] = values.astype(np.float32)
            place = (name, 0, self.end, values.size * 4, "F32")
            self.end += values.size * 4
            return place

        def vector(name, n, **how):
            return {"tensor": array(name, n, **how), "count": n, "add": 0.0,
                    "mul": 1.0}  # fmt: skip

        def matrix(name, out, columns, scale=1.0):
            return {"out": out, "in": columns, "format": "f32", "group": 0, "dtype": "F32",
                    "weight": array(name, out, columns, scale=scale / columns**0.5)}  # fmt: skip

        norm = {"scale": 0.1, "shift": 1}
        layer = {
            "norm": vector("norm", D, **norm),
            "mixer": NAME,
            NAME: {"width": WIDTH, "conv": vector("conv", D * WIDTH), "out": matrix("out", D, D)},
            "ffn_norm": vector("ffn_norm", D),
            "ffn": "dense",
            "dense": {"gate": matrix("gate", HIDDEN, D), "up": matrix("up", HIDDEN, D),
                      "down": matrix("down", D, HIDDEN, scale=0.0)},
        }  # fmt: skip
        self.spec = {
            "vocab": VOCAB, "d_model": D, "eps": EPS, "chunk": CHUNK, "inv_freq": [],
            "embed": matrix("embed", VOCAB, D, scale=2.0), "layers": [layer],
            "final_norm": vector("final_norm", D, **norm), "head": matrix("head", VOCAB, D),
        }  # fmt: skip

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

    def load(self, folder, **compute):
        path = folder / "weights"
        path.write_bytes(b"".join(values.tobytes() for values in self.arrays.values()))
        return _core.load_model(
            spec=self.spec, files=[bytes(path)], memory_bytes=256 << 20, direct=False,
            compute=_core.Compute(n_threads=2, **compute),
            options=_core.Options(context=64, read_threads=2, read_ahead=False),
        )  # fmt: skip


def compare(model, weights):
    """Prompt, single tokens and a pass of two sessions."""

    def step(*items):
        done = model.step_batch([(s, t, None, 0) for s, t in items], True, [])
        return [out["logits"] for out in done]

    first, second = model.session(), model.session()
    [prompt] = step((first, TOKENS[:9]))
    more, other = step((first, TOKENS[9:10]), (second, TOKENS[5:8]))
    [last] = step((first, TOKENS[10:]))
    expected = weights.logits(TOKENS)
    assert np.abs(expected).max() > 1
    assert np.abs(np.concatenate([prompt, more, last]) - expected).max() < 1e-4
    assert np.abs(other - weights.logits(TOKENS[5:8])).max() < 1e-4


def main(folder):
    weights = Weights()
    compare(weights.load(folder), weights)
    compare(weights.load(folder, device=_core.NativeDevice("host")), weights)
    weights.spec["layers"][0][NAME]["width"] = WIDTH - 1
    try:
        weights.load(folder)
    except FormatError as error:
        assert "conv: expected 96 numbers, found 128 (tensor conv)" in str(error), error
    else:
        raise AssertionError("a convolution of another width was not refused")
    print("computes as numpy")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
