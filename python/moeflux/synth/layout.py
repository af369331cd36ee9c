"""Which tensors a shape has, in MLX's spelling, and what values they get. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import router
from .shapes import EOS_ID, GROUP, Config, is_linear
from .weights import EXPERT_GAIN, HEAD_GAIN, MIXER_GAIN, Gate, Item, Matrix, Vector


@dataclass(frozen=True)
class _Family:
    """Conventions of a `model_type`.

    Attributes:
        outer: stands before all names, and the config is the text part of one with `wrapper`.
        gated: q_proj has rows of gates, too.
        grouped: the delta net's projections are two matrices, grouped by key head, not four.
    """

    outer: str = ""
    wrapper: Config | None = None
    gated: bool = True
    grouped: bool = False


_FAMILIES = {
    "qwen3_moe": _Family(gated=False),
    "qwen3_next": _Family(grouped=True),
    "qwen3_5_moe_text": _Family("language_model.", {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"], "eos_token_id": EOS_ID,
        "model_type": "qwen3_5_moe"}),
}  # fmt: skip


class _Builder:
    """Collects items in model order and numbers the slices of 4-bit matrices."""

    def __init__(self, config: Config, seed: int, skew: float) -> None:
        self.config, self.seed, self.skew = config, seed, skew
        self.family = _FAMILIES[config["model_type"]]
        self.items: list[Item] = []
        self.n_slices = 0

    def matrix(self, name: str, out: int, columns: int, experts: int = 0, **how: Any) -> None:
        item = Matrix(name, experts, out, columns, self.n_slices, **how)
        self.n_slices += item.n_slices
        self.items.append(item)

    def added(self, name: str, columns: int, gain: float, experts: int = 0) -> None:
        """A matrix whose output goes to the residual."""
        hidden = self.config["hidden_size"]
        self.matrix(name, hidden, columns, experts, gain=gain, silent_rows=True)

    def norm(self, name: str, width: int, constant: float | None = None) -> None:
        self.items.append(Vector(f"{name}.weight", (width,), 0.75, 1.25, constant=constant))

    def ffn(self, name: str, width: int, experts: int = 0) -> None:
        for kind in ("gate", "up"):
            self.matrix(f"{name}.{kind}_proj", width, self.config["hidden_size"], experts)
        self.added(f"{name}.down_proj", width, EXPERT_GAIN, experts)

    def attention(self, name: str) -> None:
        c = self.config
        hidden, dim = c["hidden_size"], c["head_dim"]
        queries, keys = c["num_attention_heads"] * dim, c["num_key_value_heads"] * dim
        self.matrix(f"{name}.q_proj", (1 + self.family.gated) * queries, hidden)
        self.matrix(f"{name}.k_proj", keys, hidden)
        self.matrix(f"{name}.v_proj", keys, hidden)
        self.added(f"{name}.o_proj", queries, MIXER_GAIN)
        self.norm(f"{name}.q_norm", dim)
        self.norm(f"{name}.k_norm", dim)

    def delta_net(self, name: str) -> None:
        c = self.config
        hidden, n_values = c["hidden_size"], c["linear_num_value_heads"]
        keys = c["linear_num_key_heads"] * c["linear_key_head_dim"]
        values = n_values * c["linear_value_head_dim"]
        parts = {"qkv": 2 * keys + values, "z": values, "b": n_values, "a": n_values}
        if self.family.grouped:
            parts = {"qkvz": 2 * keys + 2 * values, "ba": 2 * n_values}
        for part, out in parts.items():
            self.matrix(f"{name}.in_proj_{part}", out, hidden)
        width = c["linear_conv_kernel_dim"]
        self.items += [
            Vector(f"{name}.conv1d.weight", (2 * keys + values, width, 1), -0.87, 0.87),  # rms 0.5
            Vector(f"{name}.A_log", (n_values,), -4.0, 1.4, plain=True),
            Vector(f"{name}.dt_bias", (n_values,), -3.0, 1.0),
        ]
        self.norm(f"{name}.norm", c["linear_value_head_dim"])
        self.added(f"{name}.out_proj", values, MIXER_GAIN)

    def moe(self, name: str, layer: int) -> None:
        c = self.config
        hidden, n_experts = c["hidden_size"], c["num_experts"]
        lifts = router.biases(self.seed, layer, n_experts, self.skew)
        self.items.append(Gate(f"{name}.gate", hidden, lifts))
        self.ffn(f"{name}.switch_mlp", c["moe_intermediate_size"], n_experts)
        if "shared_expert_intermediate_size" in c:
            self.ffn(f"{name}.shared_expert", c["shared_expert_intermediate_size"])
            self.items.append(Gate(f"{name}.shared_expert_gate", hidden, (0.0,)))

    def layer(self, prefix: str, layer: int) -> None:
        hidden = self.config["hidden_size"]
        self.norm(f"{prefix}.input_layernorm", hidden, constant=0)
        if is_linear(self.config, layer):
            self.delta_net(f"{prefix}.linear_attn")
        else:
            self.attention(f"{prefix}.self_attn")
        self.norm(f"{prefix}.post_attention_layernorm", hidden, constant=1)
        self.moe(f"{prefix}.mlp", layer)


def items(config: Config, seed: int, skew: float) -> list[Item]:
    """Every tensor of the model, in its order; a 4-bit or 8-bit item stands for three of a file."""
    builder = _Builder(config, seed, skew)
    outer = builder.family.outer
    prefix = f"{outer}model."
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    builder.matrix(f"{prefix}embed_tokens", vocab, hidden, constant=True)
    for layer in range(config["num_hidden_layers"]):
        builder.layer(f"{prefix}layers.{layer}", layer)
    builder.norm(f"{prefix}norm", hidden, constant=0)
    if not config["tie_word_embeddings"]:
        builder.matrix(f"{outer}lm_head", vocab, hidden, gain=HEAD_GAIN)
    return builder.items


def mlx_config(config: Config, model: list[Item]) -> Config:
    """config.json of the MLX checkpoint."""
    gates = {
        item.name: {"group_size": GROUP, "bits": 8} for item in model if isinstance(item, Gate)
    }
    quantization = {"group_size": GROUP, "bits": 4, "mode": "affine"} | gates
    extra = {"quantization": quantization, "quantization_config": quantization}
    wrapper = _FAMILIES[config["model_type"]].wrapper
    if wrapper is None:
        return config | extra
    tied = {"tie_word_embeddings": config["tie_word_embeddings"]}
    return wrapper | tied | {"text_config": config} | extra
