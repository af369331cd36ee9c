"""Qwen3-Next: gated delta net and gated attention 3:1, shared expert with a sigmoid gate.

Hub files store RMSNorm weights as w for a factor 1 + w; MLX files store the factor. The gated norm
inside the delta net is plain in both. Files of the two kinds differ in conv1d's shape.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoint import Checkpoint
from . import builder
from .builder import Attention, Rows, Source, Spec, Tensors
from .config import MAX_EACH, MAX_HEAD_DIM, ONE_WAY, Config
from .rope import rope

_ONE_WAY = ONE_WAY | {"attn_output_gate": (True,)}


@dataclass(frozen=True)
class _Linear:
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int

    @property
    def ratio(self) -> int:
        return self.value_heads // self.key_heads

    @property
    def channels(self) -> int:
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

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
        return 0.0 if tensors.has(f"{prefix}layers.0.mlp.switch_mlp.gate_proj.weight") else 1.0
    first = types.index("linear_attention")
    conv = tensors.get(f"{prefix}layers.{first}.linear_attn.conv1d.weight")
    return 0.0 if conv.shape[-1:] == (1,) else 1.0


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Qwen3NextForCausalLM checkpoint (hub or MLX layout) to the native spec."""
    config = Config(checkpoint)
    return build_hybrid(Tensors(checkpoint, config), config, "model.", "lm_head")


def build_hybrid(tensors: Tensors, config: Config, prefix: str, head: str) -> Spec:
    """The spec of any model of these layers, whatever stands before its tensors' names."""
    config.require(_ONE_WAY)
    d_model = config.count("hidden_size")
    head_dim = config.count("head_dim", 256, most=MAX_HEAD_DIM)
    rotation = rope(config, head_dim, 0.25)
    attention = Attention(config, head_dim, rotation, gated=True)
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
    qkv_rows, z_rows = linear.rows("q", "k", "v"), linear.rows("z")
    b_rows, a_rows = linear.gate_rows(0), linear.gate_rows(1)
    types = _layer_types(config)
    add = _norm_add(tensors, types, prefix)

    def projections(attn: str, values: int) -> Source:
        if tensors.has(f"{attn}.in_proj_qkv.weight"):  # one matrix each (Qwen3.5)
            sizes = {"qkv": linear.channels, "z": values,
                     "b": linear.value_heads, "a": linear.value_heads}  # fmt: skip
            return {
                key: tensors.matrix(f"{attn}.in_proj_{key}", out, d_model)
                for key, out in sizes.items()
            }
        qkvz, ba = f"{attn}.in_proj_qkvz", f"{attn}.in_proj_ba"
        n_rows, n_gates = linear.channels + values, 2 * linear.value_heads
        return {
            "qkv": tensors.matrix(qkvz, n_rows, d_model, qkv_rows),
            "z": tensors.matrix(qkvz, n_rows, d_model, z_rows),
            "b": tensors.matrix(ba, n_gates, d_model, b_rows),
            "a": tensors.matrix(ba, n_gates, d_model, a_rows),
        }

    def delta_net(attn: str) -> Source:
        values = linear.value_heads * linear.value_dim
        return projections(attn, values) | {
            "out": tensors.matrix(f"{attn}.out_proj", d_model, values),
            "conv": tensors.vector(f"{attn}.conv1d.weight", linear.channels * linear.conv_width),
            "a_log": tensors.vector(f"{attn}.A_log", linear.value_heads),
            "dt_bias": tensors.vector(f"{attn}.dt_bias", linear.value_heads),
            "out_norm": tensors.vector(f"{attn}.norm.weight", linear.value_dim),
            "n_key_heads": linear.key_heads,
            "n_value_heads": linear.value_heads,
            "key_dim": linear.key_dim,
            "value_dim": linear.value_dim,
            "conv_width": linear.conv_width,
        }

    def layer(index: int) -> Source:
        before = f"{prefix}layers.{index}"
        source: Source = {
            "norm": tensors.vector(f"{before}.input_layernorm.weight", d_model, add),
            "ffn_norm": tensors.vector(f"{before}.post_attention_layernorm.weight", d_model, add),
        }
        if types[index] == "full_attention":
            attended = attention.source(tensors, f"{before}.self_attn", add)
            source |= {"mixer": "attention", "attention": attended}
        else:
            source |= {"mixer": "delta_net", "delta_net": delta_net(f"{before}.linear_attn")}
        mlp = f"{before}.mlp"
        if builder.is_moe_layer(config, index):
            normalise = config.flag("norm_topk_prob", True)
            d_shared = config.count("shared_expert_intermediate_size")
            source["moe"] = builder.moe(tensors, config, mlp, d_model, normalise) | {
                "shared": builder.ffn(tensors, f"{mlp}.shared_expert", d_shared, d_model),
                "shared_gate": tensors.matrix(f"{mlp}.shared_expert_gate", 1, d_model),
            }
        else:
            d_ff = config.count("intermediate_size")
            source["dense"] = builder.ffn(tensors, mlp, d_ff, d_model)
        return source

    layers = [layer(index) for index in range(len(types))]
    return builder.trunk(tensors, config, add, layers, rotation, prefix, head)
