"""A tiny checkpoint as a GGUF file, and its twin: the same weights, decoded, in safetensors.

Written with the `gguf` package: its writer, its table of names, its quantisers and decoders. What
llama.cpp's converter does to the numbers of each architecture is done here, too, from
its source: nothing here knows how moeflux reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from oracle import build, safetensors_file, writer
from oracle.checkpoint import Checkpoint
from oracle.layout import CONVOLUTIONS, stack_experts
from oracle.safetensors_file import encode
from oracle.tokenizer_file import CHAT_TEMPLATE, byte_alphabet

Array = np.ndarray
Kind = gguf.GGMLQuantizationType
ARCHS = {"qwen3_moe": "qwen3moe", "qwen3_next": "qwen3next", "qwen3_5_moe": "qwen35moe",
         "qwen2_moe": "qwen2moe", "olmoe": "olmoe", "mixtral": "llama", "minimax_m2": "minimax-m2",
         "glm4_moe": "glm4moe", "gpt_oss": "gpt-oss", "gemma4": "gemma4",
         "lfm2_moe": "lfm2moe", "deepseek_v3": "deepseek2", "glm4_moe_lite": "deepseek2",
         "mistral4": "mistral4", "nemotron_h": "nemotron_h_moe"}  # fmt: skip
HYBRID = ("qwen3_next", "qwen3_5_moe")

# Where blocks that the package decodes and cannot make have f16 numbers, in bytes.
HALVES = {
    "q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,),
    "iq4_nl": (0,), "iq4_xs": (0,), "nvfp4": (),
}  # fmt: skip


def _random_blocks(values: Array, kind: Any) -> Array:
    """Rows of random codes and scales that are as large as `values` on average."""
    columns, nbytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(values.size)
    blocks = rng.integers(0, 256, (values.size // columns, nbytes), np.uint8)
    if kind is Kind.NVFP4:  # four scales of about 2^-6
        blocks[:, :4] = rng.integers(6, 14, (len(blocks), 4))
        return blocks.reshape(*values.shape[:-1], -1)
    halves = rng.uniform(0.5, 1.5, (2, len(blocks))).astype(np.float32)

    def with_scale(factor: float) -> Array:
        for row, at in zip(halves, HALVES[kind.name.lower()], strict=False):
            scaled = (row * np.float32(factor)).astype("<f2")
            blocks[:, at : at + 2] = scaled[:, None].view(np.uint8).reshape(-1, 2)
        return blocks.reshape(*values.shape[:-1], -1)

    found = gguf.quants.dequantize(with_scale(1 / 64), kind).std()
    return with_scale(float(values.std() / found) / 64)


@dataclass
class Matrix:
    """Rows as a file has them, and the numbers that they mean."""

    raw: Array
    values: Array
    kind: Any

    @classmethod
    def of(cls, values: Array, kind: Any) -> Matrix:
        if kind.name.lower() in HALVES:
            raw = _random_blocks(values, kind)
        else:
            raw = gguf.quants.quantize(values, kind)
        return cls(raw, gguf.quants.dequantize(raw, kind).reshape(values.shape), kind)

    def rows(self, order: Any) -> Matrix:
        return Matrix(self.raw[order], self.values[order], self.kind)


def mixed(name: str) -> Any:
    """Several types in one file, as real ones have them; llama.cpp keeps routers at F32."""
    kinds = {
        "shared_expert_gate": Kind.F32,
        ".gate.": Kind.F32,
        "router": Kind.F32,
        "down_proj": Kind.Q5_1,
        "w2": Kind.Q5_1,
        "v_proj": Kind.Q8_0,
        "v_b_proj": Kind.Q8_0,
        "k_b_proj": Kind.BF16,
        "lm_head": Kind.Q5_0,
        "mixer.in_proj": Kind.Q4_1,
        "embed_tokens": Kind.Q5_0,
        "self_attn.out_proj": Kind.F16,
        "gate_proj": Kind.Q4_1,
        "w1": Kind.Q4_1,
        "k_proj": Kind.BF16,
        "o_proj": Kind.F16,
    }
    return next((kind for part, kind in kinds.items() if part in name), Kind.Q4_0)


def make(
    folder: Path, family: str, kinds: Callable[[str], Any] | str = "F32", *, split: int = 0,
    seed: int = 0, **options: Any,
) -> tuple[Path, Path]:  # fmt: skip
    """The GGUF file (the first of several with `split` tensors each) and the twin's folder.

    Args:
        folder: where both go.
        family: of the oracle's.
        kinds: the type of a matrix by its hub name, or of all by its name.
        split: tensors a file; 0: one file.
        seed: of the values.
        **options: of `oracle.build`.
    """
    form = "mlx-f32" if family == "gpt_oss" else "hf-f32"  # the hub's has gate and up in turns
    source = build(folder / "source", family, form, seed, experts="split", **options)
    found = Checkpoint(source)
    tensors = stack_experts(family, {name: safetensors_file.decode(stored)
                                     for name, stored in found.stored.items()
                                     if _is_text(name, found.text["num_hidden_layers"])},
                            "experts")  # fmt: skip
    of = (lambda _: Kind[kinds]) if isinstance(kinds, str) else kinds
    if family == "gemma4":  # gates and ups of experts are one tensor there
        of = (lambda of: lambda name: of(name.replace("experts.up_proj", "experts.gate_proj")))(of)
    text, prefix = found.text, found.family.hub_prefix
    head = found.family.hub_head
    tensors = {name.replace(prefix, "model.", 1).replace(head, "lm_head"): value
               for name, value in tensors.items()}  # fmt: skip
    for ours, own in zip(found.family.stacked, found.family.experts, strict=True):
        tensors = {name.replace(f".experts.{ours}.", f".experts.{own}."): value
                   for name, value in tensors.items()}  # fmt: skip
    stored: dict[str, Any] = {}
    twin: dict[str, Array] = {}
    for name, value in tensors.items():
        if name.endswith("kv_b_proj.weight"):
            parts, twin[name] = _keys_and_values(name, value, text, of)
            stored |= parts
            continue
        is_matrix = value.ndim > 1 and name.endswith("weight") and not name.endswith(CONVOLUTIONS)
        order = _columns(name, text, family)
        matrix = Matrix.of(
            np.ascontiguousarray(value[..., order]), of(name) if is_matrix else Kind.F32
        )
        stored[name] = matrix
        twin[name] = np.empty_like(matrix.values)
        twin[name][..., order] = matrix.values
    renamed = {name.replace("model.", prefix, 1).replace("lm_head", head): value
               for name, value in twin.items()}  # fmt: skip
    writer.write_checkpoint(folder / "twin", found.config,
                            {name: encode(value, "F32") for name, value in renamed.items()},
                            "hf", 1)  # fmt: skip
    path = folder / "model.gguf"
    text = text | {"num_experts": text[found.family.n_experts],
                   "num_experts_per_tok": text[found.family.top_k],
                   "moe_intermediate_size": text[found.family.d_ff]}  # fmt: skip
    _write(path, family, text, dict(_converted(stored, text, family)), split)
    return next(iter(sorted(folder.glob("model*.gguf")))), folder / "twin"


def _keys_and_values(
    name: str, value: Array, text: dict[str, Any], of: Callable[[str], Any]
) -> tuple[dict[str, Matrix], Array]:
    """The keys' part of kv_b_proj by heads, turned, and the values'; and what both mean."""
    nope = text["qk_nope_head_dim"]
    heads = value.reshape(text["num_attention_heads"], -1, value.shape[-1])
    both = {name.replace("kv_b", "k_b"): heads[:, :nope].swapaxes(1, 2),
            name.replace("kv_b", "v_b"): heads[:, nope:]}  # fmt: skip
    parts = {own: Matrix.of(np.ascontiguousarray(part), of(own)) for own, part in both.items()}
    keys, values = (part.values for part in parts.values())
    whole = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
    return parts, np.ascontiguousarray(whole.reshape(value.shape))


def _tiled(text: dict[str, Any]) -> Array:
    """Value heads as Qwen3.5's converter orders them: those of all key heads in turns."""
    n_k, n_v = text["linear_num_key_heads"], text["linear_num_value_heads"]
    return np.arange(n_v).reshape(n_k, n_v // n_k).T.reshape(-1)


def _is_text(name: str, n_layers: int) -> bool:
    """Whether it is of the text's part, and of a layer that predicts the next token."""
    layer = re.search(r"layers\.(\d+)\.", name)
    return "mtp." not in name and "visual" not in name and (not layer or int(layer[1]) < n_layers)


def _pairs(text: dict[str, Any], heads: str) -> Array:
    """Rows as Llama's converter orders them: a head's channels i and i + half beside each other."""
    width = text["head_dim"]
    rows = np.arange(text[heads] * width).reshape(text[heads], 2, width // 2)
    return rows.swapaxes(1, 2).reshape(-1)


def _heads(text: dict[str, Any], width: int, begin: int = 0) -> Array:
    """Rows of value heads in that order, behind `begin` others that stay."""
    rows = (_tiled(text)[:, None] * width + np.arange(width)).reshape(-1)
    return np.concatenate([np.arange(begin), begin + rows])


def _columns(name: str, text: dict[str, Any], family: str) -> Any:
    if family == "qwen3_5_moe" and name.endswith("linear_attn.out_proj.weight"):
        return _heads(text, text["linear_value_head_dim"])
    return slice(None)


def _converted(stored: dict[str, Matrix], text: dict[str, Any], family: str) -> Any:
    """GGUF's names and rows."""
    arch = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == ARCHS[family])
    names = gguf.get_tensor_name_map(arch, text["num_hidden_layers"])
    if family == "gemma4":
        stored = _gemma(stored, text)
    for name, matrix in stored.items():
        module, _, suffix = name.rpartition(".")
        if family == "nemotron_h":
            yield _nemotron(names, name, matrix, text)
            continue
        if "linear_attn" in name:
            yield from _delta_net(names, name, matrix, text, family)
            continue
        if family in HYBRID and name.endswith("norm.weight"):
            matrix.raw = matrix.raw + np.float32(1)
        if name.endswith("shared_expert_gate.weight"):
            matrix.raw = matrix.raw.reshape(-1)
        if family == "mixtral" and re.search(r"[qk]_proj", name):
            matrix = matrix.rows(_pairs(text, "num_attention_heads" if "q_proj" in name
                                        else "num_key_value_heads"))  # fmt: skip
        if suffix == "sinks":
            module, suffix = name, "weight"
        if suffix == "e_score_correction_bias":
            module, suffix = f"{module}.e_score_correction", "bias"
        if suffix == "expert_bias":
            module, suffix = name, "bias"
        if name.endswith("conv.conv.weight"):
            matrix.raw = matrix.raw.reshape(matrix.raw.shape[0], -1)
        short = module.removeprefix("model.")
        yield f"{names.get_name(module) or names.get_name(short)}.{suffix}", matrix


def _nemotron(names: Any, name: str, m: Matrix, text: dict[str, Any]) -> tuple[str, Matrix]:
    """Names with the hub's prefix; one number a row of those of heads; the decay itself."""
    own = re.sub(r"\.mixer\.experts\.", ".mlp.experts.", name)
    if own == name:
        own = re.sub(r"^model\.", "backbone.", name)
    own = own.replace("e_score_correction_bias", "e_score_correction.bias")
    own = own.replace("dt_bias", "dt.bias")
    if own.endswith(".A_log"):
        m.raw = -np.exp(m.raw)
    if own.endswith((".A_log", ".D")):
        m.raw = m.raw.reshape(-1, 1)
        return str(names.get_name(own)), m
    if own.endswith("mixer.norm.weight"):
        m.raw = m.raw.reshape(text["n_groups"], -1)
    if own.endswith("conv1d.weight"):
        m.raw = m.raw.reshape(m.raw.shape[0], -1)
    module, _, suffix = own.rpartition(".")
    return f"{names.get_name(module)}.{suffix}", m


def _gemma(stored: dict[str, Matrix], text: dict[str, Any]) -> dict[str, Matrix]:
    """Gates and ups in one, and names for what has none in the package's table."""
    out: dict[str, Matrix] = {}
    for name, m in stored.items():
        layer, _, part = name.partition(".experts.")
        if part == "gate_proj.weight":
            up = stored[f"{layer}.experts.up_proj.weight"]
            both = (np.concatenate(of, axis=1) for of in ((m.raw, up.raw), (m.values, up.values)))
            out[f"{layer}.experts.gate_up_proj.weight"] = Matrix(*both, m.kind)
        elif part != "up_proj.weight":
            name = re.sub(r"router\.per_expert_scale$", "experts.down_proj.scale", name)
            name = re.sub(r"router\.scale$", "router.proj.scale", name)
            out[re.sub(r"layer_scalar$", "layer_scalar.weight", name)] = m
    half = text["global_head_dim"] // 2
    rope = text["rope_parameters"]["full_attention"]
    n_rotated = int(text["global_head_dim"] * rope.get("partial_rotary_factor", 1) / 2)
    divisors = np.array([1.0] * n_rotated + [1e30] * (half - n_rotated), np.float32)
    return out | {"rope_freqs.weight": Matrix(divisors, divisors, Kind.F32)}


def _delta_net(names: Any, name: str, m: Matrix, text: dict[str, Any], family: str) -> Any:
    layer, part = name.split(".linear_attn.")
    n_k, n_v = text["linear_num_key_heads"], text["linear_num_value_heads"]
    d_k, d_v = text["linear_key_head_dim"], text["linear_value_head_dim"]
    tiled = family == "qwen3_5_moe"

    def call(part: str) -> str:
        return str(names.get_name(f"{layer}.linear_attn.{part}"))

    if part == "A_log":
        m.raw = -np.exp(m.raw)
        yield call("A_log"), m.rows(_tiled(text)) if tiled else m
    elif part == "dt_bias":
        yield call("dt_proj") + ".bias", m.rows(_tiled(text)) if tiled else m
    elif part == "conv1d.weight":
        m.raw = m.raw.reshape(m.raw.shape[0], -1)
        m.values = m.values.reshape(m.raw.shape)
        yield call("conv1d") + ".weight", m.rows(_heads(text, d_v, 2 * n_k * d_k)) if tiled else m
    elif part == "in_proj_qkvz.weight":
        ratio = n_v // n_k
        rows = np.arange(len(m.raw)).reshape(n_k, -1)
        q, k, v, z = np.split(rows, np.cumsum([d_k, d_k, ratio * d_v]), axis=1)
        yield (
            call("in_proj_qkv") + ".weight",
            m.rows(np.concatenate([x.reshape(-1) for x in (q, k, v)])),
        )
        yield call("in_proj_z") + ".weight", m.rows(z.reshape(-1))
    else:
        order: Any = slice(None)
        if tiled and part == "in_proj_qkv.weight":
            order = _heads(text, d_v, 2 * n_k * d_k)
        elif tiled and part == "in_proj_z.weight":
            order = _heads(text, d_v)
        elif tiled and part in ("in_proj_a.weight", "in_proj_b.weight"):
            order = _tiled(text)
        yield f"{call(part.removesuffix('.weight'))}.weight", m.rows(order)


def _write(path: Path, family: str, text: dict[str, Any], tensors: dict[str, Matrix],
           split: int) -> None:  # fmt: skip
    out = gguf.GGUFWriter(path, ARCHS[family], split_max_tensors=split)
    _metadata(out, text)
    if family in HYBRID:
        _linear_metadata(out, text)
    if family == "qwen2_moe":
        out.add_expert_shared_feed_forward_length(text["shared_expert_intermediate_size"])
    if family in ("minimax_m2", "glm4_moe", "deepseek_v3", "glm4_moe_lite"):
        out.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if family == "gpt_oss":
        out.add_sliding_window(text["sliding_window"])
    if "first_k_dense_replace" in text:
        out.add_expert_shared_count(text["n_shared_experts"])
        out.add_leading_dense_block_count(text["first_k_dense_replace"])
        out.add_expert_group_count(text["n_group"])
        out.add_expert_group_used_count(text["topk_group"])
        out.add_expert_weights_scale(text["routed_scaling_factor"])
        out.add_expert_weights_norm(text["norm_topk_prob"])
    if family == "nemotron_h":
        _nemotron_metadata(out, text)
    if family == "lfm2_moe":
        out.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        out.add_leading_dense_block_count(text["num_dense_layers"])
        out.add_expert_weights_scale(text["routed_scaling_factor"])
        out.add_shortconv_l_cache(text["conv_L_cache"])
    add_tokenizer(out, text["vocab_size"])
    for name, matrix in tensors.items():
        plain = matrix.kind in (Kind.F32, Kind.F16)
        out.add_tensor(name, matrix.raw, raw_dtype=None if plain else matrix.kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _metadata(out: Any, text: dict[str, Any]) -> None:
    out.add_type("model")
    out.add_block_count(text["num_hidden_layers"])
    out.add_context_length(text["max_position_embeddings"])
    out.add_embedding_length(text["hidden_size"])
    out.add_feed_forward_length(text.get("intermediate_size", 0))
    out.add_head_count(text["num_attention_heads"])
    out.add_layer_norm_rms_eps(text.get("rms_norm_eps", text.get("norm_eps")))
    out.add_expert_count(text["num_experts"])
    out.add_expert_used_count(text["num_experts_per_tok"])
    out.add_expert_feed_forward_length(text["moe_intermediate_size"])
    if "global_head_dim" in text:
        _gemma_metadata(out, text)
        return
    if "kv_lora_rank" in text:
        _latent_metadata(out, text)
        return
    kinds, n_kv_heads = text.get("layer_types", ()), text["num_key_value_heads"]
    kinds = kinds or text.get("hybrid_override_pattern", ())
    is_hybrid = {"conv", "M"} & set(kinds)
    out.add_head_count_kv([n_kv_heads if kind in ("full_attention", "*") else 0 for kind in kinds]
                          if is_hybrid else n_kv_heads)  # fmt: skip
    out.add_key_length(text["head_dim"])
    out.add_value_length(text["head_dim"])
    rope = text.get("rope_parameters", text)
    out.add_rope_freq_base(rope["rope_theta"])
    rotary = text.get("rotary_dim", int(text["head_dim"] * rope.get("partial_rotary_factor", 1)))
    if rotary != text["head_dim"]:
        out.add_rope_dimension_count(rotary)
    if scaling := text.get("rope_scaling"):
        out.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        out.add_rope_scaling_factor(scaling["factor"])
        out.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def _gemma_metadata(out: Any, text: dict[str, Any]) -> None:
    slides = [kind == "sliding_attention" for kind in text["layer_types"]]
    full, local = text["global_head_dim"], text["head_dim"]
    out.add_sliding_window(text["sliding_window"])
    out.add_sliding_window_pattern(slides)
    out.add_head_count_kv([text["num_key_value_heads"] if slide else
                           text["num_global_key_value_heads"] for slide in slides])  # fmt: skip
    for add, size in (("key_length", full), ("value_length", full), ("key_length_swa", local),
                      ("value_length_swa", local), ("rope_dimension_count", full),
                      ("rope_dimension_count_swa", local)):  # fmt: skip
        getattr(out, f"add_{add}")(size)
    rope = text["rope_parameters"]
    out.add_rope_freq_base(rope["full_attention"]["rope_theta"])
    out.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    out.add_shared_kv_layers(text["num_kv_shared_layers"])
    out.add_embedding_length_per_layer_input(text["hidden_size_per_layer_input"])
    if text.get("final_logit_softcapping"):
        out.add_final_logit_softcapping(text["final_logit_softcapping"])


def _nemotron_metadata(out: Any, text: dict[str, Any]) -> None:
    out.add_ssm_conv_kernel(text["conv_kernel"])
    out.add_ssm_state_size(text["ssm_state_size"])
    out.add_ssm_group_count(text["n_groups"])
    out.add_ssm_time_step_rank(text["mamba_num_heads"])
    out.add_ssm_inner_size(text["mamba_num_heads"] * text["mamba_head_dim"])
    out.add_expert_shared_feed_forward_length(text["moe_shared_expert_intermediate_size"])
    out.add_expert_shared_count(text["n_shared_experts"])
    out.add_expert_weights_norm(text["norm_topk_prob"])
    out.add_expert_weights_scale(text["routed_scaling_factor"])
    out.add_expert_group_count(text["n_group"])
    out.add_expert_group_used_count(text["topk_group"])
    if latent := text.get("moe_latent_size"):
        out.add_moe_latent_size(latent)


def _latent_metadata(out: Any, text: dict[str, Any]) -> None:
    rank, rotated = text["kv_lora_rank"], text["qk_rope_head_dim"]
    if text["q_lora_rank"]:
        out.add_q_lora_rank(text["q_lora_rank"])
    out.add_kv_lora_rank(rank)
    out.add_head_count_kv(1)
    out.add_key_length(rank + rotated)
    out.add_value_length(rank)
    out.add_key_length_mla(text["qk_nope_head_dim"] + rotated)
    out.add_value_length_mla(text["v_head_dim"])
    out.add_rope_dimension_count(rotated)
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    out.add_rope_freq_base(rope.get("rope_theta", text.get("rope_theta")))
    if "factor" in rope:
        out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        out.add_rope_scaling_factor(rope["factor"])
        out.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        out.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])
        out.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        out.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if beta := rope.get("llama_4_scaling_beta"):
        out.add_attn_temperature_scale(beta)
        out.add_attn_temperature_length(rope["original_max_position_embeddings"])


def _linear_metadata(out: Any, text: dict[str, Any]) -> None:
    out.add_expert_shared_feed_forward_length(text["shared_expert_intermediate_size"])
    out.add_ssm_conv_kernel(text["linear_conv_kernel_dim"])
    out.add_ssm_state_size(text["linear_key_head_dim"])
    out.add_ssm_group_count(text["linear_num_key_heads"])
    out.add_ssm_time_step_rank(text["linear_num_value_heads"])
    out.add_ssm_inner_size(text["linear_value_head_dim"] * text["linear_num_value_heads"])
    out.add_full_attention_interval(text.get("full_attention_interval", 4))


def add_tokenizer(out: Any, size: int) -> None:
    """The tokenizer that `oracle.tokenizer_file` writes as tokenizer.json."""
    tokens = [*byte_alphabet(), "<|im_end|>"]
    tokens += [f"[PAD{i}]" for i in range(len(tokens), size)]
    kinds = [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.UNUSED] * (size - len(kinds))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list(tokens[:size])
    out.add_token_types(kinds[:size])
    out.add_token_merges(["<|im_end|> <|im_end|>"])  # one is wanted; no text is cut so
    out.add_eos_token_id(256)
    out.add_chat_template(CHAT_TEMPLATE)
