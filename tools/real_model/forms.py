"""The checkpoints that a dense model becomes: float32, bfloat16, MLX's 4 bits; and a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from oracle import affine, safetensors_file
from oracle.safetensors_file import Stored, encode

from .dense import NETWORK, Dense
from .split import CUT, split

Array = np.ndarray
DTYPES = {"float32": "F32", "bf16": "BF16", "q4": "BF16"}  # of a form's numbers
BITS, GROUP = 4, 64
GGUF = "model-q4_k_m.gguf"
FORMS = (*DTYPES, "gguf")
_ROWS = 1 << 13  # that are quantised together
_ROUTERS = ("mlp.gate.weight", "shared_expert_gate.weight")
_HALVES = {"Q6_K": (208,), "Q4_K": (0, 2)}  # bytes at which a block's float16 numbers are


def write(dense: Dense, folder: Path, form: str) -> Path:
    """Writes one form; returns what `moeflux.load` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "gguf":
        write_gguf(dense, folder / GGUF)
        return folder / GGUF
    config = dense.config() | {"torch_dtype": "float32" if form == "float32" else "bfloat16"}
    if form == "q4":
        said = {"group_size": GROUP, "bits": BITS, "mode": "affine"}
        config |= {"quantization": said, "quantization_config": said}
    _write_shards(dense, folder, form)
    dense.write_texts(folder, config)
    return folder


def _write_shards(dense: Dense, folder: Path, form: str) -> None:
    """A file for each group of tensors, so that one group is in memory at a time."""
    weight_map: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(dense.groups()):
        if number:
            prefix = f"model.layers.{number - 1}.mlp."
            network = split(*dense.network(number - 1))
            tensors |= {prefix + name: value for name, value in network.items()}
        stored = _stored(tensors, form)
        file = f"model-{number + 1:05d}-of-{dense.n_layers + 1:05d}.safetensors"
        safetensors_file.write(folder / file, stored, "mlx" if form == "q4" else "hf")
        weight_map |= dict.fromkeys(stored, file)
        total += sum(tensor.data.nbytes for tensor in stored.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def _stored(tensors: dict[str, Array], form: str) -> dict[str, Stored]:
    dtype = DTYPES[form]
    stored: dict[str, Stored] = {}
    for name, value in tensors.items():
        if form != "q4" and value.ndim == 3:
            before, after = name.split(".experts.")
            stored |= {f"{before}.experts.{e}.{after}": encode(matrix, dtype)
                       for e, matrix in enumerate(value)}  # fmt: skip
        elif form == "q4" and value.ndim > 1 and not name.endswith(_ROUTERS):
            stored |= _quantised(name.replace(".experts.", ".switch_mlp."), value)
        else:
            stored[name] = encode(value, dtype)
    return stored


def _quantised(name: str, value: Array) -> dict[str, Stored]:
    rows = value.reshape(-1, value.shape[-1])
    pieces = [affine.quantize(rows[i : i + _ROWS], BITS, GROUP)
              for i in range(0, len(rows), _ROWS)]  # fmt: skip
    words, scales, biases = (np.concatenate(part).reshape(*value.shape[:-1], -1)
                             for part in zip(*pieces, strict=True))  # fmt: skip
    module = name.removesuffix(".weight")
    return {
        name: Stored("U32", words),
        f"{module}.scales": encode(scales, "BF16"),
        f"{module}.biases": encode(biases, "BF16"),
    }


def write_gguf(dense: Dense, path: Path) -> None:
    """The same as a GGUF file of `qwen2moe`: every block as it is, but for the factors.

    An expert's down projection is a block a row, and its factor is that of the block's scales.
    """
    out = gguf.GGUFWriter(path, "qwen2moe")
    _copy_keys(dense, out)
    for name, tensor in dense.tensors.items():
        if not name.endswith(tuple(f"{part}.weight" for part in NETWORK)):
            _add(out, name, tensor.data, tensor.tensor_type)
    for i in range(dense.n_layers):
        _add_network(dense, out, i)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _add(out: Any, name: str, rows: Array, kind: Any) -> None:
    out.add_tensor(name, rows, raw_dtype=None if kind.name == "F32" else kind)


def _add_network(dense: Dense, out: Any, layer: int) -> None:
    prefix, (n, d_ff, end) = f"blk.{layer}.", (CUT.n_experts, CUT.d_ff, CUT.routed)
    gate, up, down = (dense.tensors[f"{prefix}{name}.weight"] for name in NETWORK)
    zeros = np.zeros((n, int(gate.shape[0])), np.float32)
    out.add_tensor(f"{prefix}ffn_gate_inp.weight", zeros)
    out.add_tensor(f"{prefix}ffn_gate_inp_shexp.weight", zeros[0])
    for part, tensor in (("gate", gate), ("up", up)):
        experts = tensor.data[:end].reshape(n, d_ff, -1)
        _add(out, f"{prefix}ffn_{part}_exps.weight", experts, tensor.tensor_type)
        _add(out, f"{prefix}ffn_{part}_shexp.weight", tensor.data[end:], tensor.tensor_type)
    columns, nbytes = gguf.GGML_QUANT_SIZES[down.tensor_type]
    if columns != d_ff:
        raise ValueError(f"expected blocks of {d_ff} columns in {down.name}, found {columns}")
    blocks = down.data.reshape(len(down.data), -1, nbytes)
    experts = scaled(blocks[:, :n].swapaxes(0, 1), down.tensor_type.name, n)
    shared = scaled(blocks[:, n:], down.tensor_type.name, 2).reshape(len(blocks), -1)
    _add(out, f"{prefix}ffn_down_exps.weight", experts, down.tensor_type)
    _add(out, f"{prefix}ffn_down_shexp.weight", shared, down.tensor_type)


def scaled(blocks: Array, kind: str, factor: int) -> Array:
    """Blocks (.., bytes) that mean `factor` times as much."""
    out = np.ascontiguousarray(blocks)
    out = out.copy() if out is blocks else out
    for at in _HALVES[kind]:
        half = np.ascontiguousarray(out[..., at : at + 2]).view("<f2")
        out[..., at : at + 2] = (half * np.float16(factor)).view(np.uint8)
    return out


def _copy_keys(dense: Dense, out: Any) -> None:
    """The file's own keys under the other architecture's name, and those of experts."""
    kinds = gguf.GGUFValueType
    for name, field in dense.reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind, *inner = field.types
        name = name.replace("qwen2.", "qwen2moe.", 1) if name.startswith("qwen2.") else name
        is_array = kind == kinds.ARRAY
        out.add_key_value(name, field.contents(), kind, inner[0] if is_array else None)
    out.add_expert_count(CUT.n_experts)
    out.add_expert_used_count(CUT.n_experts)
    out.add_expert_feed_forward_length(CUT.d_ff)
    out.add_expert_shared_feed_forward_length(CUT.d_shared)
