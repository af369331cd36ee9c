"""Qwen3-Next: gated delta net and gated attention 3:1, shared expert with a sigmoid gate.

Hub files store RMSNorm weights as w for a factor 1 + w; MLX files store the factor. The gated norm
inside the delta net is plain in both. Files of the two kinds differ in conv1d's shape.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoint import Checkpoint
from ..spec import Attention, DeltaNet, GatedFfn, Layer, Matrix, Moe, Rows, Spec
from . import builder, stack
from .attention import Heads
from .builder import Tensors
from .config import MAX_EACH, MAX_HEAD_DIM, ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("qwen3_next",)
_ONE_WAY = ONE_WAY | {"attn_output_gate": (True,)}


@dataclass(frozen=True)
class _Linear:
    """Gated delta nets: one shape for all layers."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int

    @property
    def ratio(self) -> int:
        return self.value_heads // self.key_heads

    @property
    def values(self) -> int:
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        return 2 * self.key_heads * self.key_dim + self.values

    def rows(self, *parts: str) -> Rows:
        """Rows of in_proj_qkvz, which holds [q | k | v | z] for one key head after the other."""
        sizes = {"q": self.key_dim, "k": self.key_dim, "v": self.ratio * self.value_dim,
                 "z": self.ratio * self.value_dim}  # fmt: skip
        starts, total = {}, 0
        for name, size in sizes.items():
            starts[name] = total
            total += size
        return [(head * total + starts[part], sizes[part])
                for part in parts for head in range(self.key_heads)]  # fmt: skip

    def gate_rows(self, part: int) -> Rows:
        """Rows of in_proj_ba: [b | a] for one key head after the other; part 0 is b, 1 is a."""
        return [((2 * head + part) * self.ratio, self.ratio) for head in range(self.key_heads)]

    def projections(self, tensors: Tensors, name: str) -> dict[str, Matrix]:
        """qkv, z, b and a: a matrix each (Qwen3.5), or rows of one for two."""
        sizes = {"qkv": self.channels, "z": self.values,
                 "b": self.value_heads, "a": self.value_heads}  # fmt: skip
        of_qkvz = {"qkv": self.rows("q", "k", "v"), "z": self.rows("z")}
        of_ba = {"b": self.gate_rows(0), "a": self.gate_rows(1)}
        found = {}
        for stored, parts in (("qkvz", of_qkvz), ("ba", of_ba)):
            total = sum(sizes[key] for key in parts)
            for key, rows in parts.items():
                apart = tensors.has(f"{name}.in_proj_{key}.weight")
                found[key] = tensors.matrix(
                    f"{name}.in_proj_{key if apart else stored}",
                    sizes[key] if apart else total,
                    tensors.d_model,
                    None if apart else rows,
                )
        return found

    def delta_net(self, tensors: Tensors, name: str) -> DeltaNet:
        """The delta net of a layer whose tensors' names begin with `name`."""
        return DeltaNet(
            **self.projections(tensors, name),
            out=tensors.matrix(f"{name}.out_proj", tensors.d_model, self.values),
            conv=tensors.vector(f"{name}.conv1d.weight", self.channels * self.conv_width),
            a_log=tensors.vector(f"{name}.A_log", self.value_heads),
            dt_bias=tensors.vector(f"{name}.dt_bias", self.value_heads),
            out_norm=tensors.vector(f"{name}.norm.weight", self.value_dim),
            n_key_heads=self.key_heads,
            n_value_heads=self.value_heads,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            conv_width=self.conv_width,
        )


def _linear(config: Config) -> _Linear:
    linear = _Linear(
        config.count("linear_num_key_heads", most=MAX_EACH),
        config.count("linear_num_value_heads", most=MAX_EACH),
        config.count("linear_key_head_dim", most=MAX_HEAD_DIM),
        config.count("linear_value_head_dim", most=MAX_HEAD_DIM),
        config.count("linear_conv_kernel_dim", minimum=2),
    )
    if linear.value_heads % linear.key_heads:
        raise config.bad(f"expected value heads in whole groups, found {linear.value_heads} over "
                         f"{linear.key_heads} key heads")  # fmt: skip
    return linear


def _layer_types(config: Config) -> list[str]:
    types = config.layer_types(("linear_attention", "full_attention"))
    if types is not None:
        return types
    interval = config.count("full_attention_interval", 4)
    return ["linear_attention" if (i + 1) % interval else "full_attention"
            for i in range(config.count("num_hidden_layers", most=MAX_EACH))]  # fmt: skip


def _norm_add(tensors: Tensors, types: list[str], prefix: str) -> float:
    """1 for hub files, 0 for MLX files."""
    if "linear_attention" not in types:
        raise tensors.config.bad("expected a layer with a delta net, found none: without one the "
                                 "norms of hub files cannot be told from MLX's")  # fmt: skip
    first = types.index("linear_attention")
    conv = tensors.get(f"{prefix}layers.{first}.linear_attn.conv1d.weight")
    return 0.0 if conv.shape[-1:] == (1,) else 1.0


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Qwen3NextForCausalLM checkpoint (hub or MLX layout) to the spec."""
    return build_hybrid(Tensors(checkpoint, Config(checkpoint)), stack.LLAMA)


def build_hybrid(tensors: Tensors, names: stack.Names) -> Spec:
    """The spec of any model of these layers, whatever stands before its tensors' names."""
    config, d_model = tensors.config, tensors.d_model
    config.require(_ONE_WAY)
    head_dim = config.count("head_dim", 256, most=MAX_HEAD_DIM)
    rotation = rope(config, head_dim, 0.25)
    heads = Heads(config, rotation, gated=True)
    linear = _linear(config)
    types = _layer_types(config)
    add = _norm_add(tensors, types, names.prefix)
    sparse = stack.moe_layers(config)

    def mixer(index: int, layer: str) -> Attention | DeltaNet:
        if types[index] == "full_attention":
            return heads.attention(tensors, f"{layer}.self_attn", add)
        return linear.delta_net(tensors, f"{layer}.linear_attn")

    def layer(index: int) -> Layer:
        name = f"{names.prefix}layers.{index}"
        return Layer(
            norm=tensors.vector(f"{name}.input_layernorm.weight", d_model, add),
            ffn_norm=tensors.vector(f"{name}.post_attention_layernorm.weight", d_model, add),
            mixer=mixer(index, name),
            ffn=_ffn(tensors, index in sparse, f"{name}.mlp"),
        )

    layers = [layer(index) for index in range(len(types))]
    return stack.trunk(tensors, layers, rotation, add, names)


def _ffn(tensors: Tensors, is_moe: bool, name: str) -> Moe | GatedFfn:
    config = tensors.config
    if not is_moe:
        return builder.ffn(tensors, name, config.count("intermediate_size"))
    return builder.qwen_moe(tensors, name, config.flag("norm_topk_prob", True))
