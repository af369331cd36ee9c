"""Collects the tensors of a synthetic model, and reads the config whose sizes they have."""

from __future__ import annotations

import math
from typing import Any

from ..errors import FormatError
from .shapes import EOS_ID, GROUP, Config
from .weights import Item, Matrix, Vector

MAX_COUNT = (1 << 24) - 1
# Of numbers that a config must say, those that may not be as small as 1.
_LEAST = {"hidden_size": 2 * GROUP, "vocab_size": EOS_ID + 2}


class Builder:
    """Items in model order; numbers the slices of 4-bit matrices.

    Attributes:
        config: of the text part.
        seed, skew: of all random values, of routing.
        items: what there is so far.
    """

    def __init__(self, config: Config, seed: int, skew: float) -> None:
        self.config, self.seed, self.skew = config, seed, skew
        self.items: list[Item] = []
        self._n_slices = 0

    def count(self, key: str, least: int = 1) -> int:
        """A number of things that the config says, `least` or more."""
        value, least, most = self.config.get(key), _LEAST.get(key, least), MAX_COUNT
        if type(value) is not int or not least <= value <= most:
            raise FormatError(f"[synth] expected {key} in {least}..{most}, found {value!r}")
        return value

    @property
    def hidden(self) -> int:
        """Channels of the residual."""
        return self.count("hidden_size")

    def matrix(self, name: str, out: int, columns: int, *, experts: int = 0, bias: bool = False,
               **how: Any) -> None:  # fmt: skip
        """A 4-bit matrix, or a stack of them; `how` are fields of `Matrix`."""
        if columns % GROUP:
            raise FormatError(f"[synth] expected columns in whole groups of {GROUP}, found "
                              f"{columns} of {name}")  # fmt: skip
        item = Matrix(name, experts, out, columns, self._n_slices, **how)
        self._n_slices += item.n_slices
        self.items.append(item)
        if bias:
            shape = (experts, out) if experts else (out,)
            self.vector(f"{name}.bias", shape, -0.1, 0.1, constant=0 if item.silent_rows else None)

    def added(self, name: str, columns: int, gain: float, *, experts: int = 0,
              bias: bool = False) -> None:  # fmt: skip
        """A matrix whose output goes to the residual."""
        self.matrix(name, self.hidden, columns, experts=experts, bias=bias, gain=gain,
                    silent_rows=True)  # fmt: skip

    def norm(self, name: str, width: int, constant: float | None = None, gain: float = 1.0) -> None:
        """A norm's weights; `constant` is as for `Vector`."""
        self.vector(f"{name}.weight", (width,), 0.75 * gain, 1.25 * gain, constant=constant)

    def vector(self, name: str, shape: tuple[int, ...], low: float, high: float,
               **how: Any) -> None:  # fmt: skip
        """A small tensor; `how` are fields of `Vector`."""
        self.items.append(Vector(name, shape, low, high, **how))

    def convolution(self, name: str, channels: int, width: int) -> None:
        """A convolution over positions, by channel, that keeps the level of what it sees."""
        bound = 0.87 * math.sqrt(4 / width)  # of four taps each has rms 0.5
        self.vector(f"{name}.weight", (channels, width, 1), -bound, bound)
