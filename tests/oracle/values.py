"""Random tensors that depend on (seed, tensor name, shape) and on nothing else.

Raw Philox words keyed by SHA-256 of "seed/name" (numpy guarantees that stream, unlike its
distributions), turned into numbers by integer sums, products and square roots only, which IEEE
754 rounds the same everywhere. No logarithm, exponential or BLAS: the bytes are the same on every
machine and numpy version.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable

import numpy as np

Array = np.ndarray
Shape = tuple[int, ...]

# Names of the tensors that the `wide` forms keep at full f32 precision.
SMALL_TENSORS = re.compile(r"norm\.weight$|layernorm\.weight$|A_log$|_bias$|conv1d\.weight$")


def words(seed: int, name: str, count: int) -> Array:
    """`count` uniform uint64 words for (seed, name)."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
    return np.random.Philox(key=key).random_raw(count)


def normal(seed: int, name: str, shape: Shape) -> Array:
    """About N(0, 1): the centred sum of a word's four 16-bit quarters (Irwin-Hall, n = 4)."""
    quarters = words(seed, name, math.prod(shape)).view(np.uint16).astype(np.int64)
    centred = quarters[::4] + quarters[1::4] + quarters[2::4] + quarters[3::4] - 2 * 65535
    return (centred * (math.sqrt(3.0) / 65536.0)).reshape(shape)


def uniform(seed: int, name: str, shape: Shape, low: float, high: float) -> Array:
    """Uniform in [low, high) on a grid of 2^24 steps."""
    steps = words(seed, name, math.prod(shape)) >> np.uint64(40)
    return (steps.astype(np.float64) * (2.0**-24 * (high - low)) + low).reshape(shape)


def round_to_bf16(values: Array) -> Array:
    """The nearest bf16 (ties to even) of the nearest multiple of 2^-16, as float32.

    The grid makes the value exact in f16 as well, so one golden serves f32, bf16 and f16 files.
    """
    grid = (np.rint(np.asarray(values, np.float64) * 65536.0) / 65536.0).astype(np.float32)
    bits = np.ascontiguousarray(grid).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def _scaled(gain: float) -> Callable[[int, str, Shape], Array]:
    return lambda seed, name, shape: normal(seed, name, shape) * (gain / math.sqrt(shape[-1]))


def tensor(
    seed: int,
    name: str,
    shape: Shape,
    *,
    zero_centred_norms: bool,
    tied: bool,
    wide: bool,
    branch_gain: float,
    query_gain: float = 1.0,
) -> Array:
    """The float32 value of hub tensor `name`.

    Values matter: norms are not 1, biases not 0, decays spread over their range, routers decisive.

    Args:
        zero_centred_norms: norms (but not the delta net's gated one) are stored as w of 1 + w.
        query_gain: of the norms of queries.
        tied: the embedding is also the output matrix and gets its scale.
        wide: small tensors keep bits that bf16 cannot hold.
        branch_gain: scale of every block's output projection; 0.25 makes a model that is smooth
            enough for 16-bit activations end to end, 1.0 one that is chaotic and unforgiving.
    """
    gain = query_gain if name.endswith(".q_norm.weight") else 1.0
    norm_base = 0.0 if zero_centred_norms and ".linear_attn.norm." not in name else 1.0
    rules: list[tuple[str, Callable[[int, str, Shape], Array]]] = [
        (r"A_log$", lambda s, n, sh: uniform(s, n, sh, -4.0, 1.4)),
        (r"dt_bias$", lambda s, n, sh: uniform(s, n, sh, -3.0, 1.0)),
        (r"_bias$", lambda s, n, sh: 0.2 * normal(s, n, sh)),
        (r"norm[^.]*\.weight$", lambda s, n, sh: gain * (norm_base + 0.25 * normal(s, n, sh))),
        (r"(router\.|_)scal[ear]+$|\.D$", lambda s, n, sh: 1.0 + 0.25 * normal(s, n, sh)),
        (
            r"embed(_token|ding)s\.weight$",
            lambda s, n, sh: (0.2 if tied else 1.0) * normal(s, n, sh),
        ),
        (r"conv1d\.weight$", lambda s, n, sh: 0.5 * normal(s, n, sh)),
        (r"\.bias$", lambda s, n, sh: 0.2 * normal(s, n, sh)),
        (r"\.sinks$", lambda s, n, sh: normal(s, n, sh)),
        (r"\.(gate|router|router\.proj)\.weight$", _scaled(2.5)),
        (r"lm_head\.weight$", _scaled(2.0)),
        (r"\.(o_proj|out_proj|down_proj)\.weight$", _scaled(branch_gain)),
        (r"", _scaled(1.0)),
    ]
    make = next(rule for pattern, rule in rules if re.search(pattern, name))
    values = make(seed, name, shape)
    if wide and SMALL_TENSORS.search(name):
        return values.astype(np.float32)
    return round_to_bf16(values)
