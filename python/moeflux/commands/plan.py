"""`moeflux plan`: what a model needs and how fast it would be, before it is downloaded."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ..errors import FormatError
from ..terminal import escape_controls
from . import options

if TYPE_CHECKING:
    from rich.table import Table

    from ..planning.curves import Curve
    from ..planning.plan import Row, Sizes, Speed
    from ..planning.rates import Machine

WIDE = 80  # characters that the whole table of decode takes
NARROW = ("memory", "routing", "hits", "tokens/s")  # its columns in fewer


def plan(
    model: options.ModelArgument = None,
    named: options.Model = None,
    memory: options.Memories = None,
    context: options.Context = options.CONTEXT,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    precision: options.Precision = "float32",
    rows: options.Rows = None,
    kv: options.Kv = None,
    read_ahead: options.ReadAhead = True,
    hit_rate: Annotated[
        Optional[float],
        typer.Option(help="Share of experts found in memory; estimated when not given."),
    ] = None,
    folder: Annotated[
        Optional[Path],
        typer.Option(help="Probe the disk of this folder (for a hub id: where it would go)."),
    ] = None,
    plot: Annotated[
        Optional[Path], typer.Option(help="Draw tokens/s over memory into this SVG file.")
    ] = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what a model needs and how fast it would decode on this machine, at several budgets.

    Reads config and headers only: of a hub id a few hundred kilobytes, whatever the model's size.
    Rates come from a probe of a few seconds.
    """
    from .. import device as devices
    from ..arguments import check, number, optional
    from ..families import build_spec
    from ..model import RULES, check_rows
    from ..planning import curves, probe
    from ..planning import plan as planner
    from ..planning.line_chart import require_writable
    from ..remote import open_headers

    model, asked = options.one_model(model, named), options.budgets(memory)
    rate = optional(number("in 0..1", lambda value: 0 <= value <= 1))
    for text in asked or ("auto",):
        check("plan", FormatError, RULES | {"hit_rate": rate}, locals() | {"memory": text})
    native_device = devices.open_device(device, precision)
    devices.check_precision(precision, devices.kind_of(native_device))
    devices.check_kv(kv, devices.kind_of(native_device))
    found = open_headers(model, revision, offline)
    checkpoint = found.checkpoint
    threads = devices.default_threads(checkpoint.nbytes) if threads is None else threads
    spec = build_spec(checkpoint)
    check_rows(rows, spec)
    sizes = planner.measure(checkpoint, spec, context, threads, precision, native_device,
                             read_ahead, rows, kv)  # fmt: skip
    budgets = [devices.device_budget(text, native_device) for text in asked]
    budgets = budgets or planner.usual_budgets(sizes, devices.advised_bytes(native_device))
    for budget in budgets:
        planner.fit(sizes, budget)  # one that is too small is refused before the probe
    if plot is not None:
        require_writable(plot)  # and so is a chart that cannot be written
    files = checkpoint.files if found.is_local else ()
    machine = probe.machine(spec, files, sizes.slot_bytes, threads, folder, native_device,
                            precision)  # fmt: skip
    family = str(checkpoint.config.get("model_type"))
    curve = None if hit_rate is not None else curves.find(family, sizes.experts_per_layer)
    found_rows = planner.rows(sizes, machine, budgets, hit_rate, curve=curve)
    answer = {
        "model": str(checkpoint.path),
        "device": devices.kind_of(native_device),
        "precision": precision,
        "kv": kv or ("float32" if precision == "float32" else "bfloat16"),
        "advised_bytes": devices.advised_bytes(native_device),
        "routing": _routing(hit_rate, curve),
        "curve": None if curve is None else curves.describe(curve, family),
        **_answer(sizes, machine, found_rows, spec.chunk),
    }
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        _show(answer)
    if plot is not None:
        _draw(plot, answer)


def _answer(sizes: Sizes, machine: Machine, rows: list[Row], chunk: int) -> dict[str, Any]:
    from ..planning import plan as planner

    prompt_bytes = planner.prompt_bytes(sizes, chunk)

    def shown(speed: Speed) -> dict[str, Any]:
        bound = planner.bound(sizes, machine, speed.hit_rate)
        return asdict(speed) | {"tokens_per_second": speed.tokens_per_second, "bound": bound}

    return {
        "sizes": asdict(sizes),
        "minimum_bytes": planner.minimum_bytes(sizes),
        "cycle_slots": sizes.cycle_slots,
        "experts_bytes": sizes.slots_bytes(sizes.n_experts),
        "expert_bytes_per_token": sizes.expert_token_bytes,
        "prompt_tokens": chunk,
        "prompt_read_bytes": prompt_bytes,
        "prompt_read_seconds": prompt_bytes / machine.disk.best,
        "machine": asdict(machine),
        "disturbed": machine.disturbed(),
        "rows": [asdict(row.fit) | {"speeds": [shown(s) for s in row.speeds]} for row in rows],
    }


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:,.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:,.2f} MB"


def _rate(per_second: float) -> str:
    return f"{per_second:.2f}" if per_second < 1000 else f"{per_second:,.0f}"


def _show(answer: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    parts = Table(title=escape(escape_controls(answer["model"])), show_header=False)
    for name, value in _parts(answer).items():
        parts.add_row(name, value)
    console.print(parts)
    console.print(_speeds(answer, console.width < WIDE))
    if answer["disturbed"]:
        apart = ", ".join(
            f"{name} {spread:.1f} times" for name, spread in answer["disturbed"].items()
        )
        console.print(f"Measured on a busy machine: repeated measurements lie apart ({apart}). "
                      "These speeds are rough: plan again when it is quiet.")  # fmt: skip
    if len(answer["routing"]) > 1:
        other = answer["curve"] or (
            "for routing that prefers some experts: nothing near this model was measured"
        )
        console.print(f"Hit rates: for uniform routing, the floor; {escape(other)}. A run's stats "
                      "tell the real one: pass it as --hit-rate.")  # fmt: skip


def _routing(hit_rate: float | None, curve: Curve | None) -> list[str]:
    """What the speeds of a row assume."""
    if hit_rate is not None:
        return ["as given"]
    return ["uniform", "skewed" if curve is None else "measured"]


def _speeds(answer: dict[str, Any], is_narrow: bool) -> Table:
    """The table of decode; in a narrow terminal what matters most of it."""
    from rich.table import Table

    columns = ["memory", "slots", "share", "routing", "hits", "read a token", "tokens/s", "bound"]
    shown = [name for name in columns if not is_narrow or name in NARROW]
    table = Table(title="Decode")
    for column in shown:
        table.add_column(column, justify="right", no_wrap=True)
    for row in answer["rows"]:
        budget = [_gb(row["memory_bytes"]), str(row["slots"]), f"{row['share']:.0%}"]
        for name, speed in zip(answer["routing"], row["speeds"], strict=True):
            cells = [*budget, name, f"{speed['hit_rate']:.0%}", _gb(speed["bytes_per_token"]),
                     _rate(speed["tokens_per_second"]), _rate(speed["bound"])]  # fmt: skip
            found = dict(zip(columns, cells, strict=True))
            table.add_row(*(found[column] for column in shown))
            budget = ["", "", ""]
    return table


def _parts(answer: dict[str, Any]) -> dict[str, str]:
    sizes, machine = answer["sizes"], answer["machine"]
    return {
        "resident weights": _gb(sizes["resident_bytes"]),
        "scratch, buffers, stacks": _gb(sizes["scratch_bytes"]),
        f"a session of {sizes['context']} tokens": f"{answer['kv']}, "
            f"at most {_gb(sizes['session_bytes'])}, and "
            f"{_gb(sizes['extent_bytes'])} for every {sizes['extent']} of them",
        "an expert's slot": ", ".join(_gb(k[0]) for k in sizes["classes"]) or "none",
        "experts": f"{sizes['n_experts']:,} in {sizes['n_layers']} layers, "
                   f"{sizes['top_k']} a token and layer",
        "all experts in memory": _gb(answer["experts_bytes"]),
        "minimum memory": f"{_gb(answer['minimum_bytes'])} ({answer['minimum_bytes']} bytes)",
        "this device advises": "nothing" if answer["advised_bytes"] is None
                               else f"at most {_gb(answer['advised_bytes'])}",
        "experts of one token": f"{_gb(answer['expert_bytes_per_token'])} in "
                                f"{answer['cycle_slots']} slots",
        f"a first prompt of {answer['prompt_tokens']}":
            f"reads {_gb(answer['prompt_read_bytes'])}, so the first token comes after "
            f"{answer['prompt_read_seconds']:.1f} s or more",
        "a pass of a prompt": _passes(answer),
        "this disk": ", ".join(f"{_gb(rate)}/s by {batch}"
                               for batch, rate in machine["disk"]["by_batch"].items())
                     + f" ({machine['disk']['mode']})",
        "this memory": f"{_gb(machine['memory_rate'])}/s",
        "its kernels": f"{_gb(machine['kernels']['bytes_per_second'])}/s with "
                       f"{machine['threads']} threads, {answer['precision']}, "
                       f"{machine['kernels']['stage_seconds'] * 1e6:.0f} us a stage",
    }  # fmt: skip


def _passes(answer: dict[str, Any]) -> str:
    """Tokens of a pass by memory, and what a wide one computes in."""
    shown, last = [], None
    for row in answer["rows"]:
        if row["rows"] != last:
            aside = f" (in {_gb(row['pass_bytes'])} of the slots)" if row["pass_bytes"] else ""
            shown.append(f"{row['rows']:,} tokens{aside} at {_gb(row['memory_bytes'])}")
        last = row["rows"]
    return ", ".join(shown)


def _draw(path: Path, answer: dict[str, Any]) -> None:
    from ..planning.line_chart import Line, svg, write_svg

    rows = answer["rows"]
    lines = []
    names = [f"{name} routing" for name in answer["routing"]]
    names = names if len(names) > 1 else ["expected"]
    for number, name in enumerate(names):
        for key, dashed in (("tokens_per_second", False), ("bound", True)):
            points = [(row["memory_bytes"] / 1e9, row["speeds"][number][key]) for row in rows]
            lines.append(Line(f"{name}: bound" if dashed else name, points, dashed))
    title = escape_controls(f"{answer['model']}: expected decode")
    write_svg(path, svg(title, "memory budget, GB", "tokens/s", lines))
