"""Hostile checkpoints: named ways to spoil a well-built folder, and what a loader must say.

    for name, hurt in CORRUPTIONS.items():
        hurt.apply(build(tmp_path / name, **hurt.build))
        # loading must raise moeflux.<hurt.error>, its text holding each of hurt.mentions

Files are rewritten at the byte level, so nothing here depends on a writer refusing bad data.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Header = dict[str, Any]
INDEX = "model.safetensors.index.json"
FIRST, LAST = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@dataclass(frozen=True)
class Corruption:
    """`apply` spoils the folder in place; `error` is a moeflux exception's name."""

    apply: Callable[[Path], None]
    error: str
    mentions: tuple[str, ...]
    build: dict[str, Any] = field(default_factory=lambda: {"family": "qwen3_moe", "form": "mlx-q4"})


def split_file(file: Path) -> tuple[Header, bytes]:
    """Header and data of a well-formed safetensors file."""
    blob = file.read_bytes()
    start = 8 + int.from_bytes(blob[:8], "little")
    return json.loads(blob[8:start]), blob[start:]


def join_file(file: Path, header: Header | bytes, data: bytes, length: int | None = None) -> None:
    """Write header and data unchecked; `length` lies about the header's size."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    file.write_bytes(size.to_bytes(8, "little") + text + data)


def _edit_header(change: Callable[[Header, list[str]], None]) -> Callable[[Path], None]:
    """`change(header, names in file order)` on the last shard."""

    def apply(folder: Path) -> None:
        header, data = split_file(folder / LAST)
        names = [name for name in header if name != "__metadata__"]
        change(header, sorted(names, key=lambda name: header[name]["data_offsets"]))
        join_file(folder / LAST, header, data)

    return apply


def _edit_json(file: str, change: Callable[[Header], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return apply


def _resize(delta: int) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        blob = (folder / LAST).read_bytes()
        (folder / LAST).write_bytes(blob[:delta] if delta < 0 else blob + b"x" * delta)

    return apply


def _header_length(length: int) -> Callable[[Path], None]:
    return lambda folder: join_file(folder / LAST, *split_file(folder / LAST), length)


def _bad_header_text(folder: Path) -> None:
    _, data = split_file(folder / LAST)
    join_file(folder / LAST, b'{"a": ', data)


def _overlap(folder: Path) -> None:
    """The last tensor begins in the one before it, and the file is so much shorter."""
    header, data = split_file(folder / LAST)
    last = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    begin, end = header[last]["data_offsets"]
    header[last]["data_offsets"] = [begin - 16, end - 16]
    join_file(folder / LAST, header, data[: begin - 16] + data[begin:])


def _past_the_end(header: Header, names: list[str]) -> None:
    begin, end = header[names[-1]]["data_offsets"]
    header[names[-1]]["data_offsets"] = [begin + 2**40, end + 2**40]


def _backwards(header: Header, names: list[str]) -> None:
    header[names[0]]["data_offsets"] = header[names[0]]["data_offsets"][::-1]


def _hole(folder: Path) -> None:
    """Sixteen bytes that belong to no tensor, before the last one."""
    header, data = split_file(folder / LAST)
    last = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    begin, end = header[last]["data_offsets"]
    header[last]["data_offsets"] = [begin + 16, end + 16]
    join_file(folder / LAST, header, data[:begin] + b"x" * 16 + data[begin:])


def _holder(folder: Path, tensor: str) -> Path:
    """The shard that holds `tensor`."""
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][tensor]


def _wrong_shape(folder: Path) -> None:
    """A matrix transposed: same bytes, wrong shape."""
    file = _holder(folder, "lm_head.weight")
    header, data = split_file(file)
    header["lm_head.weight"]["shape"] = header["lm_head.weight"]["shape"][::-1]
    join_file(file, header, data)


def _huge_shape(header: Header, names: list[str]) -> None:
    header[names[0]]["shape"] = [2**33, 2**33]  # the product overflows 64 bits


def _unknown_dtype(header: Header, names: list[str]) -> None:
    header[names[0]]["dtype"] = "Q7"


def _another_dtype(folder: Path) -> None:
    """One expert of a layer, of which each has tensors of its own; its size stays."""
    tensor = "model.layers.0.mlp.experts.1.gate_proj.weight"
    file = _holder(folder, tensor)
    header, data = split_file(file)
    header[tensor]["dtype"] = "F16"
    join_file(file, header, data)


def fill_with_nan(folder: Path, tensor: str) -> None:
    file = _holder(folder, tensor)
    header, data = split_file(file)
    begin, end = header[tensor]["data_offsets"]
    nans = np.full((end - begin) // 2, 0x7FC0, np.uint16).tobytes()
    join_file(file, header, data[:begin] + nans + data[end:])


def _name_in_index(file_name: str) -> Callable[[Path], None]:
    return _edit_json(
        INDEX, lambda index: index["weight_map"].update({"lm_head.weight": file_name})
    )


def _wrong_shard(folder: Path) -> None:
    """All tensors of the last shard but one are said to be in the first."""
    index = json.loads((folder / INDEX).read_text())
    names = {name for name, shard in index["weight_map"].items() if shard == LAST}
    index["weight_map"] |= dict.fromkeys(names - {min(names)}, FIRST)
    (folder / INDEX).write_text(json.dumps(index))


def _lie_about_bits(config: Header) -> None:
    config["quantization"]["bits"] = config["quantization_config"]["bits"] = 8


def _corruptions() -> dict[str, Corruption]:
    bad = "FormatError"
    config = "config.json"
    return {
        "truncated_shard": Corruption(_resize(-100), bad, (LAST, "bytes")),
        "shard_cut_in_header": Corruption(
            lambda folder: (folder / LAST).write_bytes((folder / LAST).read_bytes()[:20]),
            bad,
            (LAST,),
        ),
        "empty_shard": Corruption(lambda folder: (folder / LAST).write_bytes(b""), bad, (LAST,)),
        "extra_shard_bytes": Corruption(_resize(64), bad, (LAST, "bytes")),
        "missing_shard": Corruption(lambda folder: (folder / LAST).unlink(), "IoError", (LAST,)),
        "wrong_shape": Corruption(
            _wrong_shape, bad, (".safetensors", "lm_head.weight", "257", "16")
        ),
        "shape_product_overflows": Corruption(_edit_header(_huge_shape), bad, (LAST, "8589934592")),
        "unknown_dtype": Corruption(_edit_header(_unknown_dtype), bad, (LAST, "Q7")),
        "overlapping_offsets": Corruption(_overlap, bad, (LAST, "overlap")),
        "hole_between_tensors": Corruption(_hole, bad, (LAST, "hole of 16 bytes")),
        "offsets_past_the_end": Corruption(_edit_header(_past_the_end), bad, (LAST,)),
        "offsets_backwards": Corruption(_edit_header(_backwards), bad, (LAST,)),
        "absurd_header_length": Corruption(_header_length(2**62), bad, (LAST, str(2**62))),
        "header_length_2_64": Corruption(_header_length(2**64 - 1), bad, (LAST,)),
        "invalid_header_json": Corruption(_bad_header_text, bad, (LAST,)),
        "index_names_parent": Corruption(
            _name_in_index("../x.safetensors"), bad, (INDEX, "../x.safetensors")
        ),
        "index_names_absolute": Corruption(
            _name_in_index("/etc/passwd"), bad, (INDEX, "/etc/passwd")
        ),
        "an_expert_of_another_dtype": Corruption(
            _another_dtype,
            bad,
            ("mlp.experts.1.gate_proj", "BF16", "F16"),
            {"family": "qwen3_moe", "form": "hf-bf16"},
        ),
        "index_names_a_pickle": Corruption(
            _name_in_index("x.bin"), bad, (INDEX, "expected .safetensors files", "x.bin")
        ),
        "index_names_another_shard": Corruption(
            _wrong_shard, bad, (LAST, "the index expects", "found it here")
        ),
        "index_names_a_tensor_of_no_shard": Corruption(
            _edit_json(INDEX, lambda index: index["weight_map"].update({"nowhere": LAST})),
            bad,
            (INDEX, "expected tensor 'nowhere'"),
        ),
        "tensors_in_two_shards": Corruption(
            lambda folder: shutil.copy(folder / FIRST, folder / LAST), bad, (LAST, "found it here")
        ),
        "index_not_json": Corruption(
            lambda folder: (folder / INDEX).write_text("{"), bad, (INDEX,)
        ),
        "nan_scales": Corruption(
            lambda folder: fill_with_nan(folder, "lm_head.scales"),
            bad,
            (".safetensors", "lm_head.scales"),
        ),
        "config_lies_about_bits": Corruption(_edit_json(config, _lie_about_bits), bad, ("8", "4")),
        "top_k_above_experts": Corruption(
            _edit_json(config, lambda c: c.update(num_experts_per_tok=25)), bad, ("25", "24")
        ),
        "unknown_family": Corruption(
            _edit_json(config, lambda c: c.update(model_type="qwen9_moe")), bad, ("qwen9_moe",)
        ),
        "config_not_json": Corruption(
            lambda folder: (folder / config).write_text("[1,"), bad, (config,)
        ),
        "config_missing": Corruption(
            lambda folder: (folder / config).unlink(), "IoError", (config,)
        ),
        "negative_layer_count": Corruption(
            _edit_json(config, lambda c: c.update(num_hidden_layers=-1)), bad, ("-1",)
        ),
        "fractional_hidden_size": Corruption(
            _edit_json(config, lambda c: c.update(hidden_size=128.5)), bad, ("128.5",)
        ),
    }


CORRUPTIONS: dict[str, Corruption] = _corruptions()
