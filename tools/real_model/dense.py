"""The dense model in a GGUF file: its tensors by the hub's names, its config, its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from moeflux.gguf import vocabulary

from .split import CUT, Cut

Array = np.ndarray
ARCH = "qwen2"
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
}
NETWORK = ("ffn_gate", "ffn_up", "ffn_down")


class Dense:
    """A file of the architecture `qwen2`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reader = gguf.GGUFReader(path)
        found = self.key("general.architecture")
        if found != ARCH:
            raise ValueError(f"{path}: expected the architecture {ARCH}, found {found}")
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self.n_layers = int(self.own("block_count"))

    def key(self, name: str) -> Any:
        """What the file's metadata say; None where they say nothing."""
        field = self.reader.fields.get(name)
        return None if field is None else field.contents()

    def own(self, name: str) -> Any:
        """A key of the architecture."""
        return self.key(f"{ARCH}.{name}")

    def values(self, name: str) -> Array:
        """A tensor's numbers, float32, as `gguf` decodes them."""
        tensor = self.tensors[name]
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type)

    def network(self, layer: int) -> list[Array]:
        """Gate, up and down of a layer."""
        return [self.values(f"blk.{layer}.{name}.weight") for name in NETWORK]

    def groups(self) -> Iterator[dict[str, Array]]:
        """All but the networks, by the hub's names: what is outside of layers, then each layer."""
        yield self._named(TOP, "", "")
        for i in range(self.n_layers):
            yield self._named(LAYER, f"blk.{i}.", f"model.layers.{i}.")

    def _named(self, table: dict[str, str], own: str, prefix: str) -> dict[str, Array]:
        return {
            f"{prefix}{name}.{part}": self.values(f"{own}{key}.{part}")
            for key, name in table.items()
            for part in ("weight", "bias")
            if f"{own}{key}.{part}" in self.tensors
        }

    def config(self, cut: Cut = CUT) -> dict[str, Any]:
        """config.json of the `qwen2_moe` model that this becomes."""
        cut.check(self.own("feed_forward_length"))
        return {
            "architectures": ["Qwen2MoeForCausalLM"],
            "model_type": "qwen2_moe",
            "hidden_size": self.own("embedding_length"),
            "intermediate_size": self.own("feed_forward_length"),
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.own("attention.head_count"),
            "num_key_value_heads": self.own("attention.head_count_kv"),
            "rms_norm_eps": float(self.own("attention.layer_norm_rms_epsilon")),
            "rope_theta": float(self.own("rope.freq_base")),
            "max_position_embeddings": self.own("context_length"),
            "vocab_size": len(self.tensors["token_embd.weight"].data),
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "hidden_act": "silu",
            "qkv_bias": True,
            "num_experts": cut.n_experts,
            "num_experts_per_tok": cut.n_experts,
            "norm_topk_prob": False,
            "moe_intermediate_size": cut.d_ff,
            "shared_expert_intermediate_size": cut.d_shared,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "use_sliding_window": False,
            "eos_token_id": self.key("tokenizer.ggml.eos_token_id"),
        }

    def write_texts(self, folder: Path, config: dict[str, Any]) -> None:
        """Everything of a checkpoint that is no tensor."""
        found = vocabulary.read(self.path)
        found.tokenizer.save(str(folder / "tokenizer.json"))
        texts = {"chat_template": found.templates["default"], **found.named}
        ends = {"do_sample": False, "eos_token_id": sorted(found.eos_ids)}
        for name, values in (("config", config), ("tokenizer_config", texts),
                             ("generation_config", ends)):  # fmt: skip
            (folder / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")
