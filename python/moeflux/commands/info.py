"""`moeflux info`: what a checkpoint is."""

from __future__ import annotations

from ..terminal import escape_controls
from . import options


def info(
    model: options.ModelArgument = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
) -> None:
    """Show what a checkpoint is: family, shapes, sizes. Reads no weights."""
    import numpy as np
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from .. import hub
    from ..checkpoint import open_checkpoint
    from ..families import build_spec

    checkpoint = open_checkpoint(hub.resolve(model, revision, offline))
    spec = build_spec(checkpoint)
    moe_layers = [layer["moe"] for layer in spec["layers"] if "moe" in layer]
    expert_bytes = [
        sum(matrix[part][2] for matrix in moe["experts"].values()
            for part in ("weight", "scales", "biases") if part in matrix)
        for moe in moe_layers
    ]  # fmt: skip
    routed = sum(
        size * moe["n_experts"] for size, moe in zip(expert_bytes, moe_layers, strict=True)
    )
    total = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    mixers = [layer["mixer"] for layer in spec["layers"]]
    table = Table(show_header=False, title=escape(escape_controls(str(checkpoint.path))))
    rows = {
        "family": escape_controls(str(checkpoint.config["model_type"])),
        "layers": ", ".join(f"{mixers.count(m)} {m}" for m in sorted(set(mixers))),
        "hidden size": spec["d_model"],
        "vocabulary": spec["vocab"],
        "tensors": f"{len(checkpoint.tensors)} in {len(checkpoint.files)} file(s)",
        "size on disk": f"{total / 1e6:.1f} MB",
    }
    if (commit := hub.commit_of(checkpoint.path)) is not None:
        rows["revision"] = commit
    if moe_layers:
        moe = moe_layers[0]
        per_token = sum(s * m["top_k"] for s, m in zip(expert_bytes, moe_layers, strict=True))
        gate = moe["experts"]["gate"]
        form = f"{gate['bits']}-bit, groups of {gate['group']}" if gate["bits"] else gate["dtype"]
        rows |= {
            "experts": f"{moe['n_experts']} a layer, {moe['top_k']} a token, {form}",
            "one expert": f"{int(np.max(expert_bytes)):,} bytes",
            "routed experts": f"{routed / 1e6:.1f} MB",
            "resident": f"about {(total - routed) / 1e6:.1f} MB",
            "read a token, cold": f"{per_token / 1e6:.2f} MB",
        }
    for key, value in rows.items():
        table.add_row(key, escape(str(value)))
    Console().print(table)
