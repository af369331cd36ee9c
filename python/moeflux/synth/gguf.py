"""Writes the same model as one GGUF file, Q4_0, for llama.cpp. Needs the `gguf` package.

A group of 64 codes with bias -8 * scale is two Q4_0 blocks: 2 bytes f16 d = scale, then 16 bytes,
byte j holding code j (low nibble) and code j + 16 (high nibble); value = (code - 8) * d. The scale
is exact in bf16 and in f16 (checked), so both files hold the very same numbers. Routers and norms,
8-bit and bf16 in the MLX form, are f32 here, exactly.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..durable import PART, publish, require_space
from ..errors import FormatError, MoefluxError
from .mlx import Report
from .shapes import EOS_ID, GROUP, Config
from .tokens import CHAT_TEMPLATE, END, vocabulary
from .weights import CONSTANT_CODES, Array, Gate, Item, Matrix, Pool

BLOCK = 32  # codes of a Q4_0 block
BLOCK_BYTES = 2 + BLOCK // 2
FILE_NAME = "model-q4_0.gguf"


def block_codes(codes: Array) -> Array:
    """Groups (n, 32) of two neighbouring codes a byte -> (n, 2, 16) in the order of Q4_0."""
    pairs = codes.reshape(-1, 2, BLOCK // 2)  # byte k holds codes 2k and 2k + 1
    unpacked = np.empty((*pairs.shape, 2), np.uint8)
    unpacked[..., 0], unpacked[..., 1] = pairs & 15, pairs >> 4
    halves = unpacked.reshape(-1, 2, 2, BLOCK // 2)  # (group, block, half of the block, code)
    return np.asarray(halves[:, :, 0] | halves[:, :, 1] << 4)


def half(values: Array) -> Array:
    """The values as f16.

    Raises:
        FormatError: one that f16 cannot hold exactly.
    """
    halves = values.astype(np.float16)
    if not np.array_equal(halves.astype(np.float32), values):
        raise FormatError("[synth] expected scales that f16 holds exactly; this width needs finer "
                          "ones, and no GGUF Q4_0 can hold the same numbers")  # fmt: skip
    return halves


def _q4_0(item: Matrix, codes: Array, pool: Pool) -> Array:
    out = np.empty((item.n_groups, 2, BLOCK_BYTES), np.uint8)
    scales = half(pool.scales(item.scale)).view(np.uint16)
    constant = int(np.float16(item.constant).view(np.uint16))
    done = 0
    for part, scale in zip(item.read(codes, CONSTANT_CODES, silence=False),
                           item.read(scales, constant, silence=True), strict=True):  # fmt: skip
        blocks = out[done : done + len(part)]
        blocks[..., :2] = scale.view(np.uint8).reshape(-1, 1, 2)
        blocks[..., 2:] = part
        done += len(part)
    return out.reshape(*item.lead, item.columns // BLOCK * BLOCK_BYTES)


def _tensor(item: Item, codes: Array, pool: Pool, seed: int) -> Array:
    if isinstance(item, Matrix):
        return _q4_0(item, codes, pool)
    if isinstance(item, Gate):
        gate, scales = item.parts(seed)
        centred = gate.astype(np.float32) - np.float32(128)
        groups = centred.reshape(*scales.shape, GROUP) * scales[..., None]
        return groups.reshape(gate.shape)
    return item.values(seed)


def _shape(item: Item) -> tuple[int, ...]:
    if isinstance(item, Matrix):
        return (*item.lead, item.columns // BLOCK * BLOCK_BYTES)
    return (item.out, item.columns) if isinstance(item, Gate) else item.shape


def _nbytes(item: Item) -> int:
    return int(np.prod(_shape(item))) * (1 if isinstance(item, Matrix) else 4)


def data_bytes(model: list[Item]) -> int:
    """Bytes of all tensors."""
    return sum(_nbytes(item) for item in model)


def _import() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise MoefluxError("[synth] GGUF files need the package gguf: expected "
                           "`pip install '.[gguf]'` in a clone, found none") from None  # fmt: skip


def check(config: Config) -> None:
    """Refuses what GGUF cannot carry, before anything is written.

    Raises:
        FormatError: a family that is not qwen3_moe.
        MoefluxError: the gguf package is not installed.
    """
    _import()
    if config["model_type"] != "qwen3_moe":
        raise FormatError(f"[synth] GGUF is written for qwen3_moe shapes only, found "
                          f"{config['model_type']}")  # fmt: skip


def _metadata(writer: Any, gguf: Any, config: Config) -> None:
    size = config["vocab_size"]
    kinds = [gguf.TokenType.CONTROL if i == EOS_ID else gguf.TokenType.NORMAL for i in range(size)]
    writer.add_type("model")
    writer.add_name("moeflux synth")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary(size))
    writer.add_token_types(kinds)
    # llama.cpp wants merges; one of a string with itself that no text is ever cut into.
    writer.add_token_merges([f"{END} {END}"])
    writer.add_eos_token_id(EOS_ID)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _tensor_infos(writer: Any, gguf: Any, config: Config, model: list[Item]) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3MOE, config["num_hidden_layers"])
    for item in model:
        hub_name = item.name.replace(".switch_mlp.", ".experts.").removesuffix(".weight")
        quantised = isinstance(item, Matrix)
        writer.add_tensor_info(
            names.get_name(hub_name) + ".weight",
            _shape(item),
            np.dtype(np.uint8 if quantised else np.float32),
            _nbytes(item),
            gguf.GGMLQuantizationType.Q4_0 if quantised else None,
        )


def write(
    folder: Path,
    config: Config,
    model: list[Item],
    pool: Pool,
    seed: int,
    report: Report = lambda _: None,
) -> Path:
    """`model-q4_0.gguf` in `folder`, unless it is there: whole or absent.

    Raises:
        FormatError: a family or a width that Q4_0 cannot carry exactly.
        IoError: the disk has no room.
    """
    check(config)
    gguf = _import()
    path = folder / FILE_NAME
    if path.exists():
        report(data_bytes(model))
        return path
    require_space(folder, data_bytes(model), "synth", [path])
    part = path.with_name(path.name + PART)
    writer = gguf.GGUFWriter(part, "qwen3moe")
    try:
        _metadata(writer, gguf, config)
        _tensor_infos(writer, gguf, config, model)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        codes = block_codes(pool.codes)
        for item in model:
            tensor = _tensor(item, codes, pool, seed)
            writer.write_tensor_data(tensor)
            report(tensor.nbytes)
        writer.flush()
    finally:
        writer.close()
    with part.open("rb+") as stream:
        os.fsync(stream.fileno())
    publish(part, path)
    return path
