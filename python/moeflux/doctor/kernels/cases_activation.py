"""What networks make of gate and up, and the kernel that does nothing else."""

from __future__ import annotations

import numpy as np

from . import oracles
from .case import Array, Case, Family, Generator, Out, Shape, decode, floats
from .cases_elementwise import geometry

NUMBERS = (1.5, 1.702, 1.0)  # limit, alpha, up_add
_UNITS = {0: oracles.silu, 2: oracles.gelu, 3: oracles.relu2}
# Gated, Activation
GATED = [(1, 0), (1, 1), (1, 2), (1, 3)]
FORMS = [*GATED, (0, 0), (0, 2), (0, 3)]


def constants(form: tuple[int, int]) -> dict[str, int]:
    return {"Gated": form[0], "Activation": form[1]}


def drawn(rng: Generator, forms: list[tuple[int, int]] = FORMS) -> tuple[int, int]:
    return forms[int(rng.integers(0, len(forms)))]


def activated(form: tuple[int, int], g: Array, g_size: Array, u: Array, u_size: Array) -> Out:
    """Of sums and the magnitudes that were added up in them; without a gate of `u` alone.

    An error of what goes through a unit is worth what the unit's slope makes of it; the unit's own
    is relative to what it gives, and in its flat part, where that vanishes, to what goes in.
    """
    gated, kind = form
    if kind == 1:
        limit, alpha, up_add = NUMBERS
        clamped = np.minimum(g, limit)
        silu = clamped / (1 + np.exp(-alpha * clamped))
        up = np.clip(u, -limit, limit) + up_add
        size = 1.1 * g_size * np.abs(up) + np.abs(silu) * (u_size + up_add)
        return Out(silu * up, size)
    unit, x, x_size = _UNITS[kind], *((g, g_size) if gated else (u, u_size))
    slope = 2 * np.maximum(x, 0) if kind == 3 else 1.1 * np.ones_like(x)
    # exp(y) has the relative error of y: y is as large as 1.6 (x + 0.045 x^3), where gelu is not 0.
    own = np.abs(unit(x)) * (1 + 4 * np.abs(x) if kind == 2 else 1)
    size = slope * x_size + own
    if not gated:
        return Out(unit(x), size)
    return Out(unit(x) * u, size * np.abs(u) + np.abs(unit(x)) * u_size)


def activate_f32(rng: Generator, shape: Shape) -> Case:
    (n,) = shape
    form = drawn(rng)
    gate, up = (floats(rng, n, size=float(rng.choice([1, 8]))) for _ in range(2))
    g, u = decode(gate), decode(up)
    out = activated(form, g, np.abs(g), u, np.abs(u))
    args = [gate if form[0] else None, up, out, n, *NUMBERS]
    return Case("activate_f32", args, *geometry(rng, n), constants(form), f"{shape} {form}")


KERNELS: dict[str, Family] = {
    "activate_f32": Family(
        activate_f32, [(1,), (33,), (4096,)], lambda rng: (int(rng.integers(1, 999)),)
    )
}
