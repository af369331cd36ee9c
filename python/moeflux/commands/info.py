"""`moeflux info`: what a checkpoint is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..terminal import escape_controls
from . import options

if TYPE_CHECKING:
    from ..remote import Headers


def info(
    model: options.ModelArgument = None,
    named: options.Model = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what a checkpoint is: family, shapes, sizes.

    Reads config and headers only: of a hub id a few hundred kilobytes, whatever the model's size.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..remote import open_headers

    found = open_headers(options.one_model(model, named), revision, offline)
    known = facts(found)
    if as_json:
        print(json.dumps(known, indent=2))
        return
    title = escape(escape_controls(str(found.checkpoint.path)))
    table = Table(show_header=False, title=title)
    for key, value in _rows(known).items():
        table.add_row(key, escape(str(value)))
    Console().print(table)


def facts(found: Headers) -> dict[str, Any]:
    """What is known, in bytes and counts; null where it does not apply."""
    from ..families import build_spec
    from ..formats import TABLE
    from ..gguf.contents import is_gguf
    from ..planning.inventory import inventory

    checkpoint = found.checkpoint
    spec = build_spec(checkpoint)
    sizes = inventory(checkpoint, spec)
    mixers = [layer.mixer.kind for layer in spec.layers if layer.norm is not None]
    moe = spec.moes[0] if spec.moes else None
    gate = moe.experts.gate if moe else None
    return {
        "model": escape_controls(str(checkpoint.path)),
        "family": escape_controls(str(checkpoint.config["model_type"])),
        "layers": {mixer: mixers.count(mixer) for mixer in sorted(set(mixers))},
        "hidden_size": spec.d_model,
        "vocabulary": spec.vocab,
        "positions": spec.positions,
        "chunk": spec.chunk,
        "tensors": len(checkpoint.tensors),
        "files": len(checkpoint.files),
        "bytes": checkpoint.nbytes,
        "is_local": found.is_local,
        "revision": found.revision,
        "is_packed": not is_gguf(checkpoint.path)
        and any(tensor.stride for tensor in checkpoint.tensors.values()),
        "experts_per_layer": moe and moe.n_experts,
        "experts_per_token": moe and moe.top_k,
        "expert_dtype": gate and gate.dtype,
        "expert_bits": gate and TABLE[gate.format].bits,
        "expert_group": gate and gate.group,
        "expert_formats": sorted(
            {
                m.format
                for moe in spec.moes
                for m in (moe.experts.gate, moe.experts.up, moe.experts.down)
                if m is not None  # up: one with gate, in turns
            }
        ),
        "expert_bytes": sizes.expert_bytes,
        "routed_bytes": sizes.routed_bytes,
        "resident_bytes": sizes.resident_bytes,
        "token_bytes": sizes.token_bytes,
        "ignored_bytes": sizes.ignored_bytes,
        "ignored_tensors": sizes.n_ignored,
    }


def form(facts: dict[str, Any]) -> str:
    """Of the experts' numbers, in a word or a few."""
    from ..formats import BLOCKS

    if blocks := [name for name in facts["expert_formats"] if name in BLOCKS]:
        return ", ".join(name.upper() for name in blocks)
    bits = facts["expert_bits"]
    return f"{bits}-bit, groups of {facts['expert_group']}" if bits else str(facts["expert_dtype"])


def _rows(facts: dict[str, Any]) -> dict[str, Any]:
    """The same for people."""
    rows: dict[str, Any] = {
        "family": facts["family"],
        "layers": ", ".join(f"{n} {mixer}" for mixer, n in facts["layers"].items()),
        "hidden size": facts["hidden_size"],
        "vocabulary": facts["vocabulary"],
        "tensors": f"{facts['tensors']} in {facts['files']} file(s)",
        "size on disk": f"{facts['bytes'] / 1e6:.1f} MB"
        + ("" if facts["is_local"] else ", not here yet"),
    }
    rows["a chunk of a prompt"] = f"{facts['chunk']} tokens"
    if facts["positions"]:
        rows["made for"] = f"texts of {facts['positions']} tokens"
    if facts["revision"] is not None:
        rows["revision"] = facts["revision"]
    if facts["experts_per_layer"]:
        rows |= {
            "experts": f"{facts['experts_per_layer']} a layer, {facts['experts_per_token']} a "
            f"token, {form(facts)}",
            "one expert": f"{facts['expert_bytes']:,} bytes",
            "routed experts": f"{facts['routed_bytes'] / 1e6:.1f} MB",
        }
    rows["resident"] = f"{facts['resident_bytes'] / 1e6:.1f} MB"
    if facts["experts_per_layer"]:
        rows["read a token, cold"] = f"{facts['token_bytes'] / 1e6:.2f} MB"
    if facts["is_packed"]:
        rows["layout"] = "packed: one read an expert"
    if facts["ignored_tensors"]:
        rows["ignored"] = (f"{facts['ignored_bytes'] / 1e6:.1f} MB in {facts['ignored_tensors']} "
                           "tensors that text does not need (vision, MTP)")  # fmt: skip
    return rows
