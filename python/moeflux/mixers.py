"""What looks at other positions, as data: the mixers of layers, as `csrc/ops/mixers` has them.

Matrices are [out, columns].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .stored import Matrix, Vector


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention.

    Attributes:
        gate: multiplies the output through a sigmoid.
        whole_norms: `q_norm` and `k_norm` are over all heads at once, not over each.
        window: positions that a query sees, its own among them; 0 for all before it.
        sinks: (n_heads) what joins each softmax as the score of no value.
        v: None where values are what `k` makes, before its norm and rotation.
        scale: of scores; 0 is 1 / sqrt(head_dim).
        value_norm: each head's values have a norm without weights.
        post_norm: (d_model) of what `o` makes.
        inv_freq: (rotary_dim / 2) radians a position, where they are not the model's.
    """

    kind: ClassVar[str] = "attention"
    q: Matrix
    k: Matrix
    v: Matrix | None
    o: Matrix
    gate: Matrix | None
    q_norm: Vector | None
    k_norm: Vector | None
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rotary_dim: int
    rope_scale: float
    whole_norms: bool = False
    window: int = 0
    sinks: Vector | None = None
    scale: float = 0.0
    value_norm: bool = False
    post_norm: Vector | None = None
    inv_freq: list[float] | None = None


@dataclass(frozen=True)
class DeltaNet:
    """A gated delta net."""

    kind: ClassVar[str] = "delta_net"
    qkv: Matrix
    z: Matrix
    b: Matrix
    a: Matrix
    out: Matrix
    conv: Vector
    a_log: Vector
    dt_bias: Vector
    out_norm: Vector
    n_key_heads: int
    n_value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int


@dataclass(frozen=True)
class Mla:
    """Latent attention.

    Attributes:
        q_a, q_norm: what queries are made of by `q_b`; None where that takes the layer's input.
        kv_a: makes the latent (rank) and one key (rope_dim) for all heads, which is rotated.
        kv_b: (n_heads, nope_dim + value_dim, rank) each head's key and value of a latent.
        scale: of scores.
        norm_eps: of `q_norm` and `kv_norm`.
        query_growth, query_step: a query at position p is multiplied by
            1 + query_growth * log(1 + floor(p / query_step)); a step of 0 is none.
    """

    kind: ClassVar[str] = "mla"
    q_a: Matrix | None
    q_norm: Vector | None
    q_b: Matrix
    kv_a: Matrix
    kv_norm: Vector
    kv_b: Vector
    o: Matrix
    n_heads: int
    rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    rope_scale: float
    scale: float
    norm_eps: float
    query_growth: float = 0.0
    query_step: int = 0


@dataclass(frozen=True)
class GatedConvolution:
    """A convolution over positions, by channel, between two gates.

    Attributes:
        inputs: makes [b | c | u]; the convolution is of b * u, its result is multiplied by c.
        conv: (d_model, conv_width), the last of them for the position itself.
    """

    kind: ClassVar[str] = "gated_convolution"
    inputs: Matrix
    out: Matrix
    conv: Vector
    conv_bias: Vector | None
    conv_width: int


@dataclass(frozen=True)
class Mamba2:
    """A state space with one decay a head.

    Attributes:
        inputs: makes [u | B | C]; the convolution is of all of them.
        steps: makes a step's width for each head.
        skip: (n_heads) what of u is added to what the state gives.
        out_norm: (n_heads * head_dim); the norm is over the heads of a group.
        n_groups: of heads, which share B and C of `state_dim` numbers.
    """

    kind: ClassVar[str] = "mamba2"
    inputs: Matrix
    z: Matrix
    steps: Matrix
    out: Matrix
    conv: Vector
    conv_bias: Vector | None
    a_log: Vector
    dt_bias: Vector
    skip: Vector
    out_norm: Vector
    n_heads: int
    head_dim: int
    n_groups: int
    state_dim: int
    conv_width: int


@dataclass(frozen=True)
class Nothing:
    """Stands for the mixer or for the network of a layer that has only the other."""

    kind: ClassVar[str] = "nothing"


Mixer = Attention | DeltaNet | Mla | GatedConvolution | Mamba2 | Nothing
