#!/usr/bin/env python3
"""Writes the table of checkpoints in docs/models.md, and moeflux/known.json, from their shapes.

PYTHONPATH=tests python tools/docs/checkpoints.py   # tests/python/test_checkpoint_table.py compares

A shape is the names and shapes of a checkpoint's tensors, as the tests' oracle lists them for a
config; the family reads them as it would a download's, and the planner measures what it makes.
Shapes are those of the public configs; no tensor of these checkpoints was ever here.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moeflux import known
from moeflux.checkpoint import Checkpoint, Tensor
from moeflux.families import build_spec
from moeflux.planning import plan
from moeflux.planning.inventory import inventory
from moeflux.safetensors_header import DTYPE_BYTES
from oracle.families import FAMILIES, stored_config, text_config
from oracle.layout import hub_shapes

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"
MARKS = ("<!-- checkpoints: tools/docs/checkpoints.py -->\n", "<!-- /checkpoints -->\n")
CONTEXT, THREADS, SIMD = 8192, 8, "portable"  # of the smallest memory
BITS, GATE_BITS, GROUP, MXFP4_GROUP = 4, 8, 64, 32
_EXPERT = re.compile(r"(.*\.experts)\.\d+\.(\w+)\.weight")
_GATES = re.compile(r"\.(gate|shared_expert_gate|router\.proj)$")
Shape = tuple[int, ...]


def _qwen3(layers: int, width: int, heads: int, experts: int, d_ff: int, kv: int = 4) -> Any:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "num_key_value_heads": kv, "head_dim": 128, "num_experts": experts,
            "num_experts_per_tok": 8, "moe_intermediate_size": d_ff,
            "vocab_size": 151936}  # fmt: skip


def _hybrid(layers: int, width: int, heads: int, values: int, experts: int, top_k: int, d_ff: int,
            vocab: int) -> Any:  # fmt: skip
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "num_key_value_heads": 2, "head_dim": 256, "num_experts": experts,
            "num_experts_per_tok": top_k, "moe_intermediate_size": d_ff,
            "shared_expert_intermediate_size": d_ff, "linear_num_key_heads": 16,
            "linear_key_head_dim": 128, "linear_num_value_heads": values,
            "linear_value_head_dim": 128, "vocab_size": vocab}  # fmt: skip


def _gpt_oss(layers: int, experts: int) -> Any:
    return {"num_hidden_layers": layers, "hidden_size": 2880, "num_attention_heads": 64,
            "num_key_value_heads": 8, "head_dim": 64, "num_experts": experts,
            "num_experts_per_tok": 4, "moe_intermediate_size": 2880, "sliding_window": 128,
            "vocab_size": 201088}  # fmt: skip


def _glm4(layers: int, width: int, experts: int, d_ff: int, dense: int, n_dense: int) -> Any:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": 96,
            "num_key_value_heads": 8, "head_dim": 128, "num_experts": experts,
            "num_experts_per_tok": 8, "moe_intermediate_size": d_ff, "n_shared_experts": 1,
            "intermediate_size": dense, "first_k_dense_replace": n_dense, "n_group": 1,
            "topk_group": 1, "vocab_size": 151552, "use_qk_norm": width > 4096}  # fmt: skip


def _latent(layers: int, width: int, heads: int, experts: int, top_k: int, d_ff: int, dense: int,
            vocab: int) -> Any:  # fmt: skip
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "num_key_value_heads": heads, "kv_lora_rank": 512, "q_lora_rank": 1536,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
            "num_experts": experts, "num_experts_per_tok": top_k, "moe_intermediate_size": d_ff,
            "n_shared_experts": 1, "intermediate_size": dense, "vocab_size": vocab}  # fmt: skip


def _mixtral(layers: int, width: int, heads: int, d_ff: int) -> Any:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "num_key_value_heads": 8, "head_dim": 128, "num_experts": 8,
            "moe_intermediate_size": d_ff, "vocab_size": 32000}  # fmt: skip


def _hy3(layers: int, width: int, heads: int, kv: int, experts: int, d_ff: int, dense: int) -> Any:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "num_key_value_heads": kv, "head_dim": 128, "num_experts": experts,
            "num_experts_per_tok": 8, "moe_intermediate_size": d_ff, "intermediate_size": dense,
            "vocab_size": 120832}  # fmt: skip


def _qwen2(layers: int, width: int, heads: int, kv: int, experts: int, top_k: int, d_ff: int,
           shared: int) -> Any:  # fmt: skip
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "num_key_value_heads": kv, "head_dim": 128, "num_experts": experts,
            "num_experts_per_tok": top_k, "moe_intermediate_size": d_ff,
            "shared_expert_intermediate_size": shared, "vocab_size": 151936}  # fmt: skip


def _lfm2(layers: int, experts: int, d_ff: int, dense: int, attention: tuple[int, ...]) -> Any:
    return {"num_hidden_layers": layers, "hidden_size": 2048, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 64, "num_experts": experts,
            "moe_intermediate_size": d_ff, "intermediate_size": dense, "num_dense_layers": 2,
            "layer_types": ["full_attention" if layer in attention else "conv"
                            for layer in range(layers)], "vocab_size": 65536}  # fmt: skip


def _nemotron(pattern: str, width: int, mamba: int, experts: int, top_k: int, d_ff: int,
              latent: int | None) -> Any:  # fmt: skip
    return {"num_hidden_layers": len(pattern), "hybrid_override_pattern": pattern,
            "hidden_size": width, "num_attention_heads": 32, "num_key_value_heads": 2,
            "head_dim": 128, "mamba_num_heads": mamba, "mamba_head_dim": 64, "n_groups": 8,
            "ssm_state_size": 128, "n_routed_experts": experts, "num_experts_per_tok": top_k,
            "moe_intermediate_size": d_ff, "moe_shared_expert_intermediate_size": 2 * d_ff,
            "moe_latent_size": latent, "vocab_size": 131072}  # fmt: skip


HEAD = (
    "| checkpoint | short name | family | parameters, of them a token's | files | an expert "
    "| experts of a token | smallest memory | all in memory | verified |\n" + "|---" * 10 + "|\n"
)
VERIFIED = {"qwen2_moe": "goldens; another model's weights"}  # by family: more than goldens
# Name, family, what differs from the family's config in tests/oracle.
CHECKPOINTS: list[tuple[str, str, Any]] = [
    ("Qwen3-30B-A3B, Qwen3-Coder-30B-A3B", "qwen3_moe", _qwen3(48, 2048, 32, 128, 768)),
    ("Qwen3-235B-A22B", "qwen3_moe", _qwen3(94, 4096, 64, 128, 1536)),
    ("Qwen3-Coder-480B-A35B", "qwen3_moe", _qwen3(62, 6144, 96, 160, 2560, 8)),
    ("Qwen3-Next-80B-A3B, Qwen3-Coder-Next", "qwen3_next",
     _hybrid(48, 2048, 16, 32, 512, 10, 512, 151936)),
    ("Qwen3.5-35B-A3B, Qwen3.6-35B-A3B, Ornith-1.x-35B", "qwen3_5_moe",
     _hybrid(40, 2048, 16, 32, 256, 8, 512, 248320)),
    ("Qwen3.5-122B-A10B, Ornith-1.x-122B", "qwen3_5_moe",
     _hybrid(48, 3072, 32, 64, 256, 8, 1024, 248320)),
    ("Qwen3.5-397B-A17B, Ornith-1.x-397B", "qwen3_5_moe",
     _hybrid(60, 4096, 32, 64, 512, 10, 1024, 248320)),
    ("gpt-oss-20b", "gpt_oss", _gpt_oss(24, 32)),
    ("gpt-oss-120b", "gpt_oss", _gpt_oss(36, 128)),
    ("GLM-4.5-Air", "glm4_moe", _glm4(46, 4096, 128, 1408, 10944, 1)),
    ("GLM-4.5, 4.6, 4.7", "glm4_moe", _glm4(92, 5120, 160, 1536, 12288, 3)),
    ("GLM-4.7-Flash", "glm4_moe_lite", _latent(47, 2048, 20, 64, 4, 1536, 10240, 154880)
     | {"q_lora_rank": 768, "qk_nope_head_dim": 192, "v_head_dim": 256}),
    ("DeepSeek-V3, R1", "deepseek_v3", _latent(61, 7168, 128, 256, 8, 2048, 18432, 129280)
     | {"n_group": 8, "topk_group": 4, "first_k_dense_replace": 3}),
    ("Kimi-K2", "deepseek_v3", _latent(61, 7168, 64, 384, 8, 2048, 18432, 163840)
     | {"n_group": 1, "topk_group": 1}),
    ("Gemma-4-26B-A4B", "gemma4",
     {"num_hidden_layers": 30, "hidden_size": 2816, "num_attention_heads": 16,
      "num_key_value_heads": 8, "head_dim": 256, "global_head_dim": 512,
      "num_global_key_value_heads": 2, "num_experts": 128, "top_k_experts": 8,
      "moe_intermediate_size": 704, "intermediate_size": 2112, "sliding_window": 1024,
      "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
      "vocab_size": 262144}),
    ("LFM2-8B-A1B", "lfm2_moe", _lfm2(24, 32, 1792, 7168, (2, 6, 10, 14, 18, 21))),
    ("LFM2-24B-A2B", "lfm2_moe",
     _lfm2(40, 64, 1536, 11776, (2, 6, 10, 14, 18, 22, 26, 30, 34, 38))),
    ("Nemotron-3-Nano-30B-A3B", "nemotron_h",
     _nemotron("MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", 2688, 64, 128, 6, 1856,
               None)),
    ("Nemotron-3-Super-120B-A12B", "nemotron_h",
     _nemotron("ME" * 36 + "ME*" * 4 + "*" * 4, 4096, 128, 512, 22, 2688, 1024)),
    ("Mistral-Small-4-119B", "mistral4", _latent(36, 4096, 32, 128, 4, 2048, 12288, 131072)
     | {"q_lora_rank": 1024, "kv_lora_rank": 256, "qk_nope_head_dim": 64, "head_dim": 128,
        "first_k_dense_replace": 0, "rope_parameters": FAMILIES["mistral4"].base["rope_parameters"]
        | {"partial_rotary_factor": 0.5, "original_max_position_embeddings": 8192}}),
    ("MiniMax-M2, M2.5", "minimax_m2",
     {"num_hidden_layers": 62, "hidden_size": 3072, "num_attention_heads": 48,
      "num_key_value_heads": 8, "head_dim": 128, "rotary_dim": 64, "num_experts": 256,
      "num_experts_per_tok": 8, "moe_intermediate_size": 1536, "vocab_size": 200064,
      "attn_type_list": [1] * 62}),
    ("Hy3", "hy_v3", _hy3(80, 4096, 64, 8, 192, 1536, 13312)),
    ("Hy-MT2-30B-A3B", "hy_v3", _hy3(48, 2048, 32, 4, 128, 768, 6912)),
    ("Mixtral-8x7B", "mixtral", _mixtral(32, 4096, 32, 14336)),
    ("Mixtral-8x22B", "mixtral", _mixtral(56, 6144, 48, 16384)),
    ("OLMoE-1B-7B", "olmoe",
     {"num_hidden_layers": 16, "hidden_size": 2048, "num_attention_heads": 16,
      "num_key_value_heads": 16, "head_dim": 128, "num_experts": 64, "num_experts_per_tok": 8,
      "moe_intermediate_size": 1024, "vocab_size": 50304}),
    ("Qwen1.5-MoE-A2.7B", "qwen2_moe", _qwen2(24, 2048, 16, 16, 60, 4, 1408, 5632)),
    ("Qwen2-57B-A14B", "qwen2_moe", _qwen2(28, 3584, 28, 4, 64, 8, 2560, 20480)),
]  # fmt: skip
MLX = "mlx-community/"
# Short names by row, and the conversions or releases on the hub that they stand for, as people
# write them; none of them was fetched.
HUB = {
    "Qwen3-30B-A3B, Qwen3-Coder-30B-A3B": {
        "qwen3-30b": MLX + "Qwen3-30B-A3B-Instruct-2507-4bit",
        "qwen3-coder-30b": MLX + "Qwen3-Coder-30B-A3B-Instruct-4bit"},
    "Qwen3-235B-A22B": {"qwen3-235b": MLX + "Qwen3-235B-A22B-Instruct-2507-4bit"},
    "Qwen3-Coder-480B-A35B": {"qwen3-coder-480b": MLX + "Qwen3-Coder-480B-A35B-Instruct-4bit"},
    "Qwen3-Next-80B-A3B, Qwen3-Coder-Next": {
        "qwen3-next-80b": MLX + "Qwen3-Next-80B-A3B-Instruct-4bit",
        "qwen3-coder-next": MLX + "Qwen3-Coder-Next-4bit"},
    "Qwen3.5-35B-A3B, Qwen3.6-35B-A3B, Ornith-1.x-35B": {
        "qwen3.6-35b": MLX + "Qwen3.6-35B-A3B-4bit",
        "qwen3.5-35b": MLX + "Qwen3.5-35B-A3B-4bit",
        "ornith-35b": MLX + "Ornith-1.0-35B-4bit"},
    "Qwen3.5-122B-A10B, Ornith-1.x-122B": {"qwen3.5-122b": MLX + "Qwen3.5-122B-A10B-4bit"},
    "Qwen3.5-397B-A17B, Ornith-1.x-397B": {"qwen3.5-397b": MLX + "Qwen3.5-397B-A17B-4bit"},
    "gpt-oss-20b": {"gpt-oss-20b": "openai/gpt-oss-20b"},
    "gpt-oss-120b": {"gpt-oss-120b": "openai/gpt-oss-120b"},
    "GLM-4.5-Air": {"glm-4.5-air": MLX + "GLM-4.5-Air-4bit"},
    "GLM-4.7-Flash": {"glm-4.7-flash": "zai-org/GLM-4.7-Flash"},
    "Gemma-4-26B-A4B": {"gemma-4-26b-a4b": MLX + "gemma-4-26b-a4b-it-4bit"},
    "LFM2-8B-A1B": {"lfm2-8b-a1b": MLX + "LFM2-8B-A1B-4bit"},
    "LFM2-24B-A2B": {"lfm2-24b-a2b": MLX + "LFM2-24B-A2B-4bit"},
    "MiniMax-M2, M2.5": {"minimax-m2.5": MLX + "MiniMax-M2.5-4bit"},
    "Mixtral-8x22B": {"mixtral-8x22b": MLX + "Mixtral-8x22B-Instruct-v0.1-4bit"},
    "OLMoE-1B-7B": {"olmoe-1b-7b": MLX + "OLMoE-1B-7B-0125-Instruct-4bit"},
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A checkpoint's numbers; sizes in bytes."""

    name: str
    family: str
    parameters: int
    active: int
    form: str
    file_bytes: int
    token_bytes: int
    sizes: plan.Sizes

    @property
    def line(self) -> str:
        """As the page has it."""
        sizes = self.sizes
        whole = sizes.fixed_bytes + sizes.slots_bytes(sizes.n_experts)
        short = ", ".join(f"`{name}`" for name in HUB.get(self.name, ()))
        return (
            f"| {self.name} | {short} | `{self.family}` | {self.parameters / 1e9:.1f} B, "
            f"{self.active / 1e9:.1f} B | {self.form}, {self.file_bytes / 1e9:.1f} GB "
            f"| {sizes.expert_bytes / 1e6:.2f} MB | {self.token_bytes / 1e9:.2f} GB "
            f"| {plan.minimum_bytes(sizes) / 1e9:.1f} GB | {whole / 1e9:.1f} GB "
            f"| {VERIFIED.get(self.family, 'goldens')} |\n"
        )

    @property
    def known(self) -> known.Known:
        """As the package has it."""
        return known.Known(self.name, self.family, self.form, self.parameters, self.active,
                           self.file_bytes, HUB.get(self.name, {}), asdict(self.sizes))  # fmt: skip


def _stacked(shapes: dict[str, Shape]) -> dict[str, Shape]:
    """Experts of a layer as one tensor."""
    stacks: dict[str, list[Shape]] = {}
    for name, shape in shapes.items():
        found = _EXPERT.fullmatch(name)
        stacks.setdefault(f"{found[1]}.{found[2]}.weight" if found else name, []).append(shape)
    return {name: (len(found), *found[0]) if ".experts." in name and name.endswith(".weight")
            else found[0] for name, found in stacks.items()}  # fmt: skip


def _mxfp4(shapes: dict[str, Shape]) -> dict[str, tuple[str, Shape]]:
    """The tensors of a release of gpt-oss: dtype and shape by name."""
    out: dict[str, tuple[str, Shape]] = {}
    for name, shape in shapes.items():
        if ".experts." not in name:
            out[name] = ("BF16", shape)
            continue
        if ".up_proj" in name:  # with gate
            continue
        both = ".gate_proj" in name
        rows = shape[1] * 2 if both else shape[1]
        module, part = name.replace("gate_proj", "gate_up_proj").rsplit(".", 1)
        if part == "bias":
            out[f"{module}_bias"] = ("BF16", (shape[0], rows))
            continue
        lead = (shape[0], rows, shape[2] // MXFP4_GROUP)
        out |= {f"{module}_blocks": ("U8", (*lead, 16)), f"{module}_scales": ("U8", lead)}
    return out


def _affine(shapes: dict[str, Shape], plain_router: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """MLX's 4 bits: dtype and shape by name, and the config's `quantization`."""
    out: dict[str, Any] = {}
    said: dict[str, Any] = {"group_size": GROUP, "bits": BITS, "mode": "affine"}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        is_plain = len(shape) < 2 or module.endswith((f".{plain_router}", "conv1d", "conv.conv"))
        if is_plain or shape[-1] % GROUP or not name.endswith(".weight"):
            out[name] = ("BF16", shape)
            continue
        bits = BITS
        if _GATES.search(module):
            bits, said[module] = GATE_BITS, {"group_size": GROUP, "bits": GATE_BITS}
        groups = (*shape[:-1], shape[-1] // GROUP)
        out |= {
            name: ("U32", (*shape[:-1], shape[-1] * bits // 32)),
            f"{module}.scales": ("BF16", groups),
            f"{module}.biases": ("BF16", groups),
        }
    return out, said  # fmt: skip


def row(name: str, family: str, settings: dict[str, Any]) -> Row:
    """The numbers of one checkpoint."""
    oracle = FAMILIES[family]
    text = text_config(family, settings)
    shapes = _stacked(hub_shapes(family, text))
    if text.get("use_qk_norm") is False:  # the oracle's model has the norms
        shapes = {name: shape for name, shape in shapes.items() if "k_norm" not in name
                  and "q_norm" not in name}  # fmt: skip
    config = stored_config(family, text, "bfloat16", "hub")
    if family == "gpt_oss":
        form, tensors = "MXFP4", _mxfp4(shapes)
        config["quantization_config"] = {"quant_method": "mxfp4"}
    elif oracle.latent:  # of which 4 bits are refused
        form, tensors = "bf16", {name: ("BF16", shape) for name, shape in shapes.items()}
    else:
        form = "4 bits"
        tensors, said = _affine(shapes, oracle.router if oracle.router_is_plain else "?")
        config["quantization"] = said
    table: dict[str, Tensor] = {}
    end = 0
    for tensor, (dtype, shape) in tensors.items():
        nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
        table[tensor] = Tensor(tensor, 0, end, nbytes, dtype, shape)
        end += nbytes
    checkpoint = Checkpoint(Path(name), config, (Path("model.safetensors"),), table)
    spec = build_spec(checkpoint)
    sizes = plan.measure(checkpoint, spec, CONTEXT, THREADS)
    total = sum(map(math.prod, shapes.values()))
    routed = sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name)
    return Row(
        name, family, total, total - routed + routed * text[oracle.top_k]
        // text[oracle.n_experts], form, end, inventory(checkpoint, spec).token_bytes, sizes,
    )  # fmt: skip


def rows() -> list[Row]:
    """All checkpoints."""
    os.environ["MOEFLUX_SIMD"] = SIMD
    return [row(*checkpoint) for checkpoint in CHECKPOINTS]


def page(found: list[Row]) -> str:
    """docs/models.md with the table of these rows."""
    text = PAGE.read_text()
    before, rest = text.split(MARKS[0])
    table = HEAD + "".join(row.line for row in found)
    return before + MARKS[0] + table + MARKS[1] + rest.split(MARKS[1])[1]


def data(found: list[Row]) -> str:
    """moeflux/known.json: a line for each row."""
    lines = [json.dumps(row.known._asdict()) for row in found]
    return "[\n" + ",\n".join(lines) + "\n]\n"


if __name__ == "__main__":
    computed = rows()
    PAGE.write_text(page(computed))
    known.FILE.write_text(data(computed))
