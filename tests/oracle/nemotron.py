"""Mamba-2 in float64, one token after the other, as Nemotron-H has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .reference import Reference

Array = np.ndarray
Shape = tuple[int, ...]
MIXERS, NETWORKS = "M*", "E-"  # letters of layers


def sizes(config: dict[str, Any]) -> tuple[int, int, int, int]:
    """Heads, channels of a head, groups, and numbers of B and of C for each group."""
    heads, dim = config["mamba_num_heads"], config["mamba_head_dim"]
    return heads, dim, config["n_groups"], config["ssm_state_size"]


def shapes(config: dict[str, Any]) -> dict[str, Shape]:
    """Tensors of the mixer."""
    hidden, (heads, dim, groups, state) = config["hidden_size"], sizes(config)
    values, channels = heads * dim, heads * dim + 2 * groups * state
    found: dict[str, Shape] = {
        "in_proj.weight": (values + channels + heads, hidden),
        "conv1d.weight": (channels, 1, config["conv_kernel"]),
        "A_log": (heads,),
        "D": (heads,),
        "dt_bias": (heads,),
        "norm.weight": (values,),
        "out_proj.weight": (hidden, values),
    }
    if config["use_conv_bias"]:
        found["conv1d.bias"] = (channels,)
    return {f"mixer.{name}": shape for name, shape in found.items()}


def mamba(ref: Reference, p: str, x: Array) -> Array:
    """What a layer's mixer, whose tensors' names begin with `p`, gives."""
    (heads, dim, groups, width), n = sizes(ref.text), len(x)
    values, get = heads * dim, ref.files.get
    z, rows, dt = np.split(ref._linear(x, f"{p}.in_proj"), [values, -heads], axis=1)
    taps = get(f"{p}.conv1d.weight").reshape(rows.shape[1], -1)
    padded = np.concatenate([np.zeros((taps.shape[1] - 1, rows.shape[1])), rows])
    rows = sum(padded[j : j + n] * taps[:, j] for j in range(taps.shape[1]))
    if ref.files.has(f"{p}.conv1d.bias"):
        rows = rows + get(f"{p}.conv1d.bias")
    rows = rows / (1 + np.exp(-rows))
    u, b, c = np.split(rows, [values, values + groups * width], axis=1)
    b, c = (np.repeat(t.reshape(n, groups, width), heads // groups, axis=1) for t in (b, c))
    u, dt = u.reshape(n, heads, dim), np.logaddexp(0, dt + get(f"{p}.dt_bias"))
    decay = np.exp(-np.exp(get(f"{p}.A_log")) * dt)
    state, y = np.zeros((heads, dim, width)), np.empty_like(u)
    for t in range(n):
        state = state * decay[t][:, None, None] + np.einsum(
            "hd,hw->hdw", dt[t][:, None] * u[t], b[t]
        )
        y[t] = np.einsum("hdw,hw->hd", state, c[t]) + get(f"{p}.D")[:, None] * u[t]
    y = (y.reshape(n, values) * z / (1 + np.exp(-z))).reshape(n, groups, -1)
    y = y / np.sqrt((y * y).mean(axis=2, keepdims=True) + ref.text[ref.family.eps])
    return ref._linear(y.reshape(n, values) * get(f"{p}.norm.weight"), f"{p}.out_proj")
