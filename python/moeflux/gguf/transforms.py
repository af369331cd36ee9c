"""What llama.cpp's converter did to an architecture's tensors, undone as they are described.

No weights are copied: a matrix has its rows in another order, or some of them more than once. Small
vectors of other numbers than the family means are read here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..safetensors_header import Tensor
from .keys import Keys

# The numbers of a vector, float32, flat.
Numbers = Callable[[Tensor], Any]
Transform = Callable[[Tensor, Keys, Numbers], Tensor]
MAX_HEADS, MAX_ROWS = 1 << 12, 1 << 16
MAX_VECTOR_BYTES = 16 << 20  # that are read or made


def as_row(tensor: Tensor, keys: Keys, numbers: Numbers) -> Tensor:
    """A matrix of one row that is stored as a vector."""
    return replace(tensor, shape=(1, *tensor.shape))


def as_column(tensor: Tensor, keys: Keys, numbers: Numbers) -> Tensor:
    """A convolution [channels, width] in the shape that tells of norms that hold 1 + w."""
    return replace(tensor, shape=(*tensor.shape, 1))


def log_of_negative(tensor: Tensor, keys: Keys, numbers: Numbers) -> Tensor:
    """A_log, of which -exp(A_log) is stored."""
    values = numbers(tensor).astype(np.float64)
    if not (values < 0).all() or not np.isfinite(values).all():
        raise keys.bad(f"expected negative numbers in ssm_a, found others ({tensor.name})")
    return replace(tensor, numbers=np.log(-values).astype(np.float32))


def halves_of_heads(key: str) -> Transform:
    """Rows of heads, whose number is at `key`, of which rotated pairs lie beside each other.

    The family pairs channel i of a head with i + half of them.
    """

    def transform(tensor: Tensor, keys: Keys, numbers: Numbers) -> Tensor:
        n_heads, n_rows = keys.count(key), tensor.shape[0]
        if not 1 <= n_heads <= MAX_HEADS or n_rows % (2 * n_heads) or n_rows > MAX_ROWS:
            raise keys.bad(f"expected rows of {n_heads} heads in pairs, at most {MAX_ROWS}, in "
                           f"{tensor.name}, found {n_rows}")  # fmt: skip
        width = n_rows // n_heads
        return replace(tensor, rows=tuple(
            (head * width + channel, 1)
            for head in range(n_heads)
            for first in (0, 1)
            for channel in range(first, width, 2)
        ))  # fmt: skip

    return transform


def with_keys_of_values(tensor: Tensor, keys: Keys, numbers: Numbers) -> Tensor:
    """[q | k | v] with the query and key of its own for each value head.

    Value head h belongs to key head h % n_key_heads in the file, and to the h-th here.
    """
    return replace(tensor, rows=_rows(tensor, keys))


def conv_with_keys_of_values(tensor: Tensor, keys: Keys, numbers: Numbers) -> Tensor:
    """The convolution [channels, width] of such rows."""
    rows = _rows(tensor, keys)
    nbytes = sum(count for _, count in rows) * tensor.shape[1] * np.dtype(np.float32).itemsize
    if nbytes > MAX_VECTOR_BYTES:
        raise keys.bad(f"expected at most {MAX_VECTOR_BYTES} bytes of {tensor.name} with keys of "
                       f"each value head, found {nbytes}")  # fmt: skip
    values = numbers(tensor).reshape(tensor.shape)
    chosen = np.concatenate([values[begin : begin + count] for begin, count in rows])
    return replace(tensor, numbers=chosen, shape=(*chosen.shape, 1))


def _rows(tensor: Tensor, keys: Keys) -> tuple[tuple[int, int], ...]:
    n_keys, n_values = (keys.count(f"ssm.{key}") for key in ("group_count", "time_step_rank"))
    width, values = keys.count("ssm.state_size"), keys.count("ssm.inner_size")
    if not 1 <= n_keys <= n_values <= MAX_HEADS or n_values % n_keys:
        raise keys.bad(f"expected value heads in whole groups, at most {MAX_HEADS}, found "
                       f"{n_values} over {n_keys} key heads")  # fmt: skip
    expected = 2 * n_keys * width + values
    if len(tensor.shape) != 2 or tensor.shape[0] != expected:
        raise keys.bad(f"expected {expected} rows of queries, keys and values in {tensor.name}, "
                       f"found shape {list(tensor.shape)}")  # fmt: skip
    heads = [(head % n_keys) * width for head in range(n_values)]
    begins = [*heads, *(n_keys * width + begin for begin in heads)]
    return (*((begin, width) for begin in begins), (2 * n_keys * width, values))
