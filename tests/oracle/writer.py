"""`build`: a tiny checkpoint in a folder, from (family, form, seed, config overrides)."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import affine, safetensors_file, values
from .families import FAMILIES, Config, stored_config, text_config
from .layout import fuse_experts, hub_shapes, ignorable_shapes, interleave_experts, to_mlx
from .safetensors_file import Stored
from .tokenizer_file import write_tokenizer
from .values import SMALL_TENSORS

Array = np.ndarray
_DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
# mlx-lm keeps routers and shared-expert gates at 8 bits, group 64, whatever the rest has.
_GATE_MODULES = re.compile(r"\.(gate|shared_expert_gate|router\.proj)$")
_GATE_BITS, _GATE_GROUP = 8, 64
# `mlx-q4-odd`: widths that no group size divides, so those matrices stay unquantised.
_ODD_WIDTHS = {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 96}


# The finer group of the matrices that get more bits: an override that inherits nothing.
_MIXED_GROUP = 32


def _gets_more_bits(module: str) -> bool:
    """mlx-lm's mixed recipes: head, value and down projections of some layers."""
    layer = re.search(r"layers\.(\d+)\.", module)
    chosen = layer is None or int(layer[1]) % 3 != 1
    return module.endswith("lm_head") or (chosen and module.endswith(("v_proj", "down_proj")))


@dataclass(frozen=True)
class Form:
    """How values are stored. Parsed from names like `hf-bf16`, `mlx-q4-g32-wide`."""

    writer: str  # "hf" or "mlx"
    dtype: str  # of everything that is not quantised codes
    bits: int = 0  # 0: not quantised
    group_size: int = 64
    wide: bool = False  # small tensors stored as F32 values that bf16 cannot hold
    odd: bool = False
    mixed_bits: int = 0  # of the matrices that mlx-lm's mixed recipes give more; 0: none


def parse_form(name: str) -> Form:
    """`hf-{f32|bf16|f16}[-wide]` or `mlx-{q<bits>|f32|bf16|f16}[-g<group>][-odd][-wide]`.

    `mlx-q3_6`: as mlx-lm's mixed_3_6.
    """
    pattern = r"(hf|mlx)-(f32|bf16|f16|q[234568](?:_[68])?)(?:-g(32|64|128))?(-odd)?(-wide)?"
    match = re.fullmatch(pattern, name)
    if not match or (match[1] == "hf" and match[2].startswith("q")):
        raise ValueError(f"unknown form {name!r}, expected {pattern}")
    quantised = match[2].startswith("q")
    return Form(
        writer=match[1],
        dtype="BF16" if quantised else match[2].upper(),
        bits=int(match[2][1]) if quantised else 0,
        mixed_bits=int(match[2][3:] or 0) if quantised else 0,
        group_size=int(match[3] or 64),
        odd=bool(match[4]),
        wide=bool(match[5]),
    )


# Where `build` keeps what it has made, to copy it when it is asked for again; None: nowhere.
kept: Path | None = None


def build(
    path: Path | str,
    family: str = "qwen3_next",
    form: str = "hf-bf16",
    seed: int = 0,
    **options: Any,
) -> Path:
    """Write a checkpoint folder and return it.

    Args:
        path: folder to create (parents too).
        family: a key of `families.FAMILIES`.
        form: see `parse_form`.
        **options: what `_build` takes, and fields of the text config in the hub dialect, e.g.
            num_hidden_layers=2.
    """
    if kept is None:
        return _build(Path(path), family, form, seed, **options)
    key = json.dumps([family, form, seed, options])
    source = kept / hashlib.sha256(key.encode()).hexdigest()
    if not source.exists():
        _build(source.with_suffix(".part"), family, form, seed, **options).rename(source)
    shutil.copytree(source, path, copy_function=shutil.copyfile, dirs_exist_ok=True)
    return Path(path)


def _build(
    path: Path,
    family: str,
    form: str,
    seed: int,
    *,
    shards: int = 2,
    dialect: str = "hub",
    experts: str = "hub",
    branch_gain: float = 1.0,
    gate_bits: int = _GATE_BITS,
    **overrides: Any,
) -> Path:
    """The same, always computed.

    Args:
        shards: safetensors files; more than one adds an index.
        dialect: "hub" or "transformers5" spelling of config.json.
        experts: hf forms: "hub" (the family's own layout), "split" (per expert) or "fused". A
            family of interleaved ones has no other.
        branch_gain: see `values.tensor`.
        gate_bits: bits of routers and shared-expert gates in quantised forms.
    """
    spec, how = FAMILIES[family], parse_form(form)
    known = spec.base
    widths = {k: v for k, v in _ODD_WIDTHS.items() if how.odd and k in known}
    text = text_config(family, widths | overrides)
    shapes = hub_shapes(family, text)
    if how.writer == "hf":
        shapes |= ignorable_shapes(family, text)
    tensors = {
        name: values.tensor(
            seed,
            name,
            shape,
            zero_centred_norms=spec.zero_centred_norms,
            tied=text["tie_word_embeddings"],
            wide=how.wide,
            branch_gain=branch_gain,
            query_gain=spec.query_gain,
        )
        for name, shape in shapes.items()
    }
    config = stored_config(family, text, _DTYPE_NAMES[how.dtype], dialect)
    if how.writer == "mlx":
        plain = f".{spec.router}" if spec.router_is_plain else None
        stored, modules = _quantised(to_mlx(family, tensors), how, gate_bits, plain)
        if how.bits:
            top = {"group_size": how.group_size, "bits": how.bits, "mode": "affine"}
            config["quantization"] = config["quantization_config"] = top | modules
    else:
        if spec.interleaved_experts:
            tensors = interleave_experts(family, tensors)
        elif experts == "fused" or (experts == "hub" and spec.fused_experts):
            tensors = fuse_experts(family, tensors)
        stored = {name: _stored(name, value, how) for name, value in tensors.items()}
    return write_checkpoint(path, config, stored, how.writer, shards)


def _stored(name: str, value: Array, how: Form) -> Stored:
    keep_f32 = how.wide and SMALL_TENSORS.search(name)
    return safetensors_file.encode(value, "F32" if keep_f32 else how.dtype)


def _quantised(
    tensors: dict[str, Array], how: Form, gate_bits: int, plain: str | None
) -> tuple[dict[str, Stored], dict[str, Config]]:
    """MLX tensors with weights replaced by (weight, scales, biases), and the overrides' config.

    Modules whose names end with `plain` are left as they are.
    """
    stored: dict[str, Stored] = {}
    overrides: dict[str, Config] = {}
    for name, value in tensors.items():
        module = name.removesuffix(".weight")
        plain_ends = ("conv1d.weight", ".bias", ".kv_b_proj.weight")
        is_matrix = value.ndim >= 2 and not name.endswith(plain_ends)
        if plain and module.endswith(plain):
            stored[name] = _stored(name, value, how)
            continue
        bits, group = how.bits, how.group_size
        if how.bits and _GATE_MODULES.search(module):
            bits, group = gate_bits, _GATE_GROUP
            overrides[module] = {"group_size": group, "bits": bits}
        elif how.mixed_bits and _gets_more_bits(module):
            bits, group = how.mixed_bits, _MIXED_GROUP
            overrides[module] = {"group_size": group, "bits": bits}
        if not (bits and is_matrix and value.shape[-1] % group == 0):
            stored[name] = _stored(name, value, how)
            continue
        words, scales, biases = affine.quantize(value, bits, group)
        stored[name] = Stored("U32", words)
        stored[f"{module}.scales"] = safetensors_file.encode(scales, how.dtype)
        stored[f"{module}.biases"] = safetensors_file.encode(biases, how.dtype)
    return stored, overrides


def write_checkpoint(
    folder: Path, config: Config, tensors: dict[str, Stored], writer: str, shards: int
) -> Path:
    """config.json, generation_config.json, tokenizer, `shards` files and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    text = config.get("text_config", config)
    generation = {"do_sample": False, "eos_token_id": text["eos_token_id"]}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    write_tokenizer(folder)
    groups = _split(tensors, shards)
    if len(groups) == 1:
        safetensors_file.write(folder / "model.safetensors", tensors, writer)
        return folder
    weight_map = {}
    for number, names in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        safetensors_file.write(folder / file, {n: tensors[n] for n in names}, writer)
        weight_map.update(dict.fromkeys(names, file))
    total = sum(tensor.data.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return folder


def _split(tensors: dict[str, Stored], shards: int) -> list[list[str]]:
    """Names in order, in `shards` runs of about equal bytes."""
    total = sum(tensor.data.nbytes for tensor in tensors.values())
    groups: list[list[str]] = [[] for _ in range(shards)]
    done = 0
    for name, tensor in tensors.items():
        groups[min(shards - 1, done * shards // max(total, 1))].append(name)
        done += tensor.data.nbytes
    return [group for group in groups if group]
