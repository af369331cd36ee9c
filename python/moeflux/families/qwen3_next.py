"""Qwen3-Next: gated delta net and gated attention 3:1, shared expert with a sigmoid gate.

Hub files store RMSNorm weights as w for a factor 1 + w; MLX files store the factor. The gated norm
inside the delta net is plain in both. Files of the two kinds differ in conv1d's shape.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoint import Checkpoint
from . import builder
from .builder import Config, Rows, Source, Spec, Tensors


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


def _layer_types(config: Config, n_layers: int) -> list[str]:
    types = config.values.get("layer_types")
    if types is None:
        interval = config.count("full_attention_interval", 4)
        return ["linear_attention" if (i + 1) % interval else "full_attention"
                for i in range(n_layers)]  # fmt: skip
    known = ("linear_attention", "full_attention")
    if not isinstance(types, list) or len(types) != n_layers or any(t not in known for t in types):
        raise config.bad(f"expected {n_layers} layer_types of {known}, found {str(types)[:200]}")
    return types


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
    d_model, n_heads = config.count("hidden_size"), config.count("num_attention_heads")
    n_kv_heads, head_dim = config.count("num_key_value_heads"), config.count("head_dim", 256)
    fraction = config.number(
        "partial_rotary_factor",
        config.number("partial_rotary_factor", 0.25),
        inside=config.section("rope_parameters"),
    )
    rotary_dim = int(head_dim * fraction)
    if n_heads % n_kv_heads or rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise config.bad(f"expected heads in whole groups and an even rotary dim up to head_dim, "
                         f"found {n_heads} heads, {n_kv_heads} kv heads, rotary dim {rotary_dim} "
                         f"of {head_dim}")  # fmt: skip
    linear = _Linear(
        config.count("linear_num_key_heads"),
        config.count("linear_num_value_heads"),
        config.count("linear_key_head_dim"),
        config.count("linear_value_head_dim"),
        config.count("linear_conv_kernel_dim", minimum=2),
    )
    if linear.value_heads % linear.key_heads:
        raise config.bad(f"expected value heads in whole groups, found {linear.value_heads} over "
                         f"{linear.key_heads} key heads")  # fmt: skip
    types = _layer_types(config, config.count("num_hidden_layers"))
    add = _norm_add(tensors, types, prefix)
    bias = config.flag("attention_bias", False)
    rope = builder.rope(config, rotary_dim)

    def attention(attn: str) -> Source:
        both = 2 * n_heads * head_dim
        queries = [(2 * head * head_dim, head_dim) for head in range(n_heads)]
        gates = [((2 * head + 1) * head_dim, head_dim) for head in range(n_heads)]
        return {
            "q": tensors.matrix(f"{attn}.q_proj", both, d_model, queries, bias),
            "gate": tensors.matrix(f"{attn}.q_proj", both, d_model, gates, bias),
            "k": tensors.matrix(f"{attn}.k_proj", n_kv_heads * head_dim, d_model, bias=bias),
            "v": tensors.matrix(f"{attn}.v_proj", n_kv_heads * head_dim, d_model, bias=bias),
            "o": tensors.matrix(f"{attn}.o_proj", d_model, n_heads * head_dim, bias=bias),
            "q_norm": tensors.vector(f"{attn}.q_norm.weight", head_dim, add),
            "k_norm": tensors.vector(f"{attn}.k_norm.weight", head_dim, add),
            "n_heads": n_heads,
            "n_kv_heads": n_kv_heads,
            "head_dim": head_dim,
            "rotary_dim": rotary_dim,
            "rope_scale": rope["rope_scale"],
        }

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
            "qkv": tensors.matrix(qkvz, n_rows, d_model, linear.rows("q", "k", "v")),
            "z": tensors.matrix(qkvz, n_rows, d_model, linear.rows("z")),
            "b": tensors.matrix(ba, n_gates, d_model, linear.gate_rows(0)),
            "a": tensors.matrix(ba, n_gates, d_model, linear.gate_rows(1)),
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
            source |= {"mixer": "attention", "attention": attention(f"{before}.self_attn")}
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
    return builder.trunk(tensors, config, add, layers, rope, prefix, head)
