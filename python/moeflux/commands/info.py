"""`moeflux info`: what a checkpoint is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..terminal import escape_controls
from . import options

if TYPE_CHECKING:
    from ..remote import Headers


def info(
    model: options.ModelArgument = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what a checkpoint is: family, shapes, sizes.

    Reads config and headers only: of a hub id a few hundred kilobytes, whatever the model's size.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..remote import open_headers

    found = open_headers(model, revision, offline)
    title = escape(escape_controls(str(found.checkpoint.path)))
    table = Table(show_header=False, title=title)
    for key, value in _rows(found).items():
        table.add_row(key, escape(str(value)))
    Console().print(table)


def _rows(found: Headers) -> dict[str, Any]:
    from ..families import build_spec
    from ..formats import TABLE
    from ..planning.inventory import inventory

    checkpoint = found.checkpoint
    spec = build_spec(checkpoint)
    sizes = inventory(checkpoint, spec)
    mixers = [layer.mixer.kind for layer in spec.layers]
    rows: dict[str, Any] = {
        "family": escape_controls(str(checkpoint.config["model_type"])),
        "layers": ", ".join(f"{mixers.count(m)} {m}" for m in sorted(set(mixers))),
        "hidden size": spec.d_model,
        "vocabulary": spec.vocab,
        "tensors": f"{len(checkpoint.tensors)} in {len(checkpoint.files)} file(s)",
        "size on disk": f"{checkpoint.nbytes / 1e6:.1f} MB"
        + ("" if found.is_local else ", not here yet"),
    }
    if found.revision is not None:
        rows["revision"] = found.revision
    if spec.moes:
        moe = spec.moes[0]
        gate = moe.experts.gate
        bits = TABLE[gate.format].bits
        form = f"{bits}-bit, groups of {gate.group}" if bits else gate.dtype
        rows |= {
            "experts": f"{moe.n_experts} a layer, {moe.top_k} a token, {form}",
            "one expert": f"{sizes.expert_bytes:,} bytes",
            "routed experts": f"{sizes.routed_bytes / 1e6:.1f} MB",
        }
    rows["resident"] = f"{sizes.resident_bytes / 1e6:.1f} MB"
    if spec.moes:
        rows["read a token, cold"] = f"{sizes.token_bytes / 1e6:.2f} MB"
    if any(tensor.stride for tensor in checkpoint.tensors.values()):
        rows["layout"] = "packed: one read an expert"
    if sizes.n_ignored:
        rows["ignored"] = (f"{sizes.ignored_bytes / 1e6:.1f} MB in {sizes.n_ignored} tensors that "
                           "text does not need (vision, MTP)")  # fmt: skip
    return rows
