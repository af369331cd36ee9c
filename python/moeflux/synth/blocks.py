"""What layers are made of: the tensors of each block, and what values they get.

A block is what its fields say of names; sizes are fields of the config.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FormatError
from . import router
from .builder import Builder
from .weights import EXPERT_GAIN, MIXER_GAIN, Gate, PlainGate

_GLU = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Norm:
    """A norm of the residual, or of what is added to it.

    Attributes:
        name: of its module.
        constant: what it makes of the residual's constant channels.
        gain: of its weights.
    """

    name: str
    constant: float = 0.0
    gain: float = 1.0

    def add(self, builder: Builder, prefix: str, layer: int) -> None:
        """Its tensor."""
        builder.norm(prefix + self.name, builder.hidden, self.constant, self.gain)


@dataclass(frozen=True)
class Scale:
    """A tensor of numbers from `low` to `high`: as many as the field `count` says, or that."""

    name: str
    count: str | int
    low: float
    high: float
    constant: float | None = None

    def add(self, builder: Builder, prefix: str, layer: int) -> None:
        """Its tensor."""
        count = self.count if isinstance(self.count, int) else builder.count(self.count)
        builder.vector(prefix + self.name, (count,), self.low, self.high, constant=self.constant)


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention.

    Attributes:
        name: of its module.
        gated: q_proj has rows of gates, too.
        biased: which of q, k, v and o have a bias.
        norms: the names of the heads' norms, with `{}` for q and k; or none.
        query_gain: of the queries' norm, by the channels of a head, where scores have no scale.
        out: the output's matrix.
        sinks: heads have a sink.
        head_dim, kv_heads: the config's fields.
        keys_are_values: there is no v_proj.
        gain: of what it gives.
    """

    name: str = "self_attn"
    gated: bool = False
    biased: str = ""
    norms: str = "{}_norm"
    query_gain: float = 0.0
    out: str = "o_proj"
    sinks: bool = False
    head_dim: str = "head_dim"
    kv_heads: str = "num_key_value_heads"
    keys_are_values: bool = False
    gain: float = MIXER_GAIN

    def add(self, builder: Builder, prefix: str, layer: int) -> None:
        """Its tensors."""
        name, hidden, dim = prefix + self.name, builder.hidden, builder.count(self.head_dim)
        heads, kv_heads = builder.count("num_attention_heads"), builder.count(self.kv_heads)
        if heads % kv_heads:
            raise FormatError(f"[synth] expected heads in whole groups, found {heads} over "
                              f"{kv_heads} heads")  # fmt: skip
        rows = {"q": (1 + self.gated) * heads * dim, "k": kv_heads * dim, "v": kv_heads * dim}
        for part, out in rows.items():
            if part != "v" or not self.keys_are_values:
                builder.matrix(f"{name}.{part}_proj", out, hidden, bias=part in self.biased)
        builder.added(f"{name}.{self.out}", heads * dim, self.gain, bias="o" in self.biased)
        if self.norms:
            scale = self.query_gain * dim**-0.5 if self.query_gain else 1.0
            builder.norm(f"{name}.{self.norms.format('q')}", dim, gain=scale)
            builder.norm(f"{name}.{self.norms.format('k')}", dim)
        if self.sinks:
            builder.vector(f"{name}.sinks", (heads,), -1.0, 1.0)


@dataclass(frozen=True)
class DeltaNet:
    """A gated delta net; `grouped`: two matrices of projections, by key head, not four."""

    name: str = "linear_attn"
    grouped: bool = False

    def add(self, builder: Builder, prefix: str, layer: int) -> None:
        """Its tensors."""
        name, value_dim = prefix + self.name, builder.count("linear_value_head_dim")
        n_keys, n_values = (builder.count(f"linear_num_{of}_heads") for of in ("key", "value"))
        if n_values % n_keys:
            raise FormatError(f"[synth] expected value heads in whole groups, found {n_values} "
                              f"over {n_keys} key heads")  # fmt: skip
        keys, values = n_keys * builder.count("linear_key_head_dim"), n_values * value_dim
        parts = {"qkv": 2 * keys + values, "z": values, "b": n_values, "a": n_values}
        if self.grouped:
            parts = {"qkvz": 2 * keys + 2 * values, "ba": 2 * n_values}
        for part, out in parts.items():
            builder.matrix(f"{name}.in_proj_{part}", out, builder.hidden)
        width = builder.count("linear_conv_kernel_dim")
        builder.convolution(f"{name}.conv1d", 2 * keys + values, width)
        builder.vector(f"{name}.A_log", (n_values,), -4.0, 1.4, plain=True)
        builder.vector(f"{name}.dt_bias", (n_values,), -3.0, 1.0)
        builder.norm(f"{name}.norm", value_dim)
        builder.added(f"{name}.out_proj", values, MIXER_GAIN)


@dataclass(frozen=True)
class Convolution:
    """LFM2's gated convolution."""

    name: str = "conv"

    def add(self, builder: Builder, prefix: str, layer: int) -> None:
        """Its tensors."""
        name, hidden = prefix + self.name, builder.hidden
        builder.matrix(f"{name}.in_proj", 3 * hidden, hidden)
        builder.convolution(f"{name}.conv", hidden, builder.count("conv_L_cache"))
        builder.added(f"{name}.out_proj", hidden, MIXER_GAIN)


@dataclass(frozen=True)
class Mamba:
    """Mamba-2."""

    name: str = "mixer"

    def add(self, builder: Builder, prefix: str, layer: int) -> None:
        """Its tensors."""
        name, heads = prefix + self.name, builder.count("mamba_num_heads")
        values = heads * builder.count("mamba_head_dim")
        channels = values + 2 * builder.count("n_groups") * builder.count("ssm_state_size")
        builder.matrix(f"{name}.in_proj", values + channels + heads, builder.hidden)
        builder.convolution(f"{name}.conv1d", channels, builder.count("conv_kernel"))
        builder.vector(f"{name}.conv1d.bias", (channels,), -0.1, 0.1)
        builder.vector(f"{name}.A_log", (heads,), -4.0, 1.4, plain=True)
        builder.vector(f"{name}.D", (heads,), 0.75, 1.25)
        builder.vector(f"{name}.dt_bias", (heads,), -3.0, 1.0)
        builder.norm(f"{name}.norm", values)
        builder.added(f"{name}.out_proj", values, MIXER_GAIN)


@dataclass(frozen=True)
class Network:
    """A resident network: a dense layer's or a shared expert.

    Attributes:
        name: of its module.
        width: the config's field.
        matrices: their names, the last of which gives what the network gives.
        gate: its output goes through a sigmoid of a row below that name.
        gain: of what it gives.
    """

    name: str
    width: str
    matrices: tuple[str, ...] = _GLU
    gate: str = ""
    gain: float = EXPERT_GAIN

    def add(self, builder: Builder, prefix: str, layer: int) -> None:
        """Its tensors."""
        width, name = builder.count(self.width), prefix + self.name
        for matrix in self.matrices[:-1]:
            builder.matrix(f"{name}.{matrix}", width, builder.hidden)
        builder.added(f"{name}.{self.matrices[-1]}", width, self.gain)
        if self.gate:
            builder.items.append(Gate(prefix + self.gate, builder.hidden, (0.0,)))


@dataclass(frozen=True)
class Moe:
    """Routed experts, their router, and a shared expert.

    Attributes:
        name: of its module, with a dot; "" is the layer itself.
        router: its matrix, below `name`.
        plain: that is of bf16; else of 8 bits, as MLX has it.
        router_scale: what the router sees is divided by the square root of the model's width.
        selection_bias: what joins the scores for the choice, below `name`; or none.
        biased: router and experts have biases.
        stack: the module of the experts, below `name`; `matrices` are their names.
        n_experts, width, top_k: the config's fields.
        shared: the shared expert, below `name`; or none.
        gain: of what it gives.
    """

    name: str = "mlp."
    router: str = "gate"
    plain: bool = False
    router_scale: bool = False
    selection_bias: str = ""
    biased: bool = False
    stack: str = "switch_mlp"
    matrices: tuple[str, ...] = _GLU
    n_experts: str = "num_experts"
    width: str = "moe_intermediate_size"
    top_k: str = "num_experts_per_tok"
    shared: Network | None = None
    gain: float = EXPERT_GAIN

    def add(self, builder: Builder, prefix: str, layer: int) -> None:
        """Its tensors."""
        n_experts, top_k = builder.count(self.n_experts), builder.count(self.top_k)
        if top_k > n_experts:
            raise FormatError(f"[synth] expected K <= experts, found K {top_k} of {n_experts}")
        hidden, width, name = builder.hidden, builder.count(self.width), prefix + self.name
        scale = hidden**0.5 if self.router_scale else 1.0
        lifts = router.biases(builder.seed, layer, n_experts, builder.skew)
        gate = PlainGate if self.plain else Gate
        builder.items.append(gate(name + self.router, hidden,
                                  tuple(lift * scale for lift in lifts), scale))  # fmt: skip
        if self.biased:
            builder.vector(f"{name}{self.router}.bias", (n_experts,), 0.0, 0.0)  # skew lifts alone
        if self.selection_bias:
            builder.vector(name + self.selection_bias, (n_experts,), 0.0, 0.0, plain=True)
        for matrix in self.matrices[:-1]:
            builder.matrix(f"{name}{self.stack}.{matrix}", width, hidden, experts=n_experts,
                           bias=self.biased)  # fmt: skip
        builder.added(f"{name}{self.stack}.{self.matrices[-1]}", width, self.gain,
                      experts=n_experts, bias=self.biased)  # fmt: skip
        if self.shared:
            self.shared.add(builder, name, layer)


Block = Norm | Scale | Attention | DeltaNet | Convolution | Mamba | Network | Moe
