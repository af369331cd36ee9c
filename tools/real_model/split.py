"""A dense network as experts: the same function, with a router and a gate that are zeros.

A gated network is a sum over its units, so any cut of the units is a sum of smaller networks. Of
zeros a router gives each of its E experts the weight 1 / E, if all are chosen, and the gate gives
the shared expert a half. The down projections take the factors E and 2: powers of two, which round
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Cut:
    """How the units of a network are shared out, in order: experts, then the shared expert."""

    n_experts: int = 16
    d_ff: int = 256
    d_shared: int = 768

    @property
    def routed(self) -> int:
        """Units of all experts."""
        return self.n_experts * self.d_ff

    def check(self, d_ff: int) -> None:
        """Raises ValueError: a network of `d_ff` units is not what this cuts, or not exactly."""
        if self.routed + self.d_shared != d_ff or self.n_experts & (self.n_experts - 1):
            raise ValueError(f"expected a network that {self} cuts, found one of {d_ff} units")


CUT = Cut()


def split(gate: Array, up: Array, down: Array, cut: Cut = CUT) -> dict[str, Array]:
    """The tensors of a `qwen2_moe` layer, by their names below `mlp.`, with stacks of experts.

    Args:
        gate: (d_ff, d_model) of the dense network; `up` likewise.
        up: as `gate`.
        down: (d_model, d_ff).
        cut: what becomes of the units.
    """
    cut.check(len(gate))
    n, d_model, end = cut.n_experts, gate.shape[1], cut.routed
    by_expert = down[:, :end].reshape(d_model, n, cut.d_ff).swapaxes(0, 1)
    return {
        "gate.weight": np.zeros((n, d_model), np.float32),
        "experts.gate_proj.weight": gate[:end].reshape(n, cut.d_ff, d_model),
        "experts.up_proj.weight": up[:end].reshape(n, cut.d_ff, d_model),
        "experts.down_proj.weight": by_expert * np.float32(n),
        "shared_expert.gate_proj.weight": gate[end:],
        "shared_expert.up_proj.weight": up[end:],
        "shared_expert.down_proj.weight": down[:, end:] * np.float32(2),
        "shared_expert_gate.weight": np.zeros((1, d_model), np.float32),
    }
