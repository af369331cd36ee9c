"""How `moeflux plan` shows its answer: a sentence, tables, a chart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..terminal import escape_controls

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 80  # characters that the whole table of decode takes
NARROW = ("memory", "routing", "hits", "tokens/s")  # its columns in fewer


def gigabytes(nbytes: float) -> str:
    """As the tables have it."""
    return f"{nbytes / 1e9:,.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:,.2f} MB"


def _rate(per_second: float) -> str:
    return f"{per_second:.2f}" if per_second < 1000 else f"{per_second:,.0f}"


def show_plan(answer: dict[str, Any]) -> None:
    """The sentence first, then what it comes from."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    sentence = escape_controls(answer["verdict"]["sentence"])
    console.print(sentence, markup=False, highlight=False)
    if not answer["rows"]:
        return
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


def _speeds(answer: dict[str, Any], is_narrow: bool) -> Table:
    """The table of decode; in a narrow terminal what matters most of it."""
    from rich.table import Table

    columns = ["memory", "slots", "share", "routing", "hits", "read a token", "tokens/s", "bound"]
    shown = [name for name in columns if not is_narrow or name in NARROW]
    table = Table(title="Decode")
    for column in shown:
        table.add_column(column, justify="right", no_wrap=True)
    for row in answer["rows"]:
        budget = [gigabytes(row["memory_bytes"]), str(row["slots"]), f"{row['share']:.0%}"]
        for name, speed in zip(answer["routing"], row["speeds"], strict=True):
            cells = [*budget, name, f"{speed['hit_rate']:.0%}", gigabytes(speed["bytes_per_token"]),
                     _rate(speed["tokens_per_second"]), _rate(speed["bound"])]  # fmt: skip
            found = dict(zip(columns, cells, strict=True))
            table.add_row(*(found[column] for column in shown))
            budget = ["", "", ""]
    return table


def _parts(answer: dict[str, Any]) -> dict[str, str]:
    sizes, machine = answer["sizes"], answer["machine"]
    return {
        "resident weights": gigabytes(sizes["resident_bytes"]),
        "scratch, buffers, stacks": gigabytes(sizes["scratch_bytes"]),
        f"a session of {sizes['context']} tokens": f"{answer['kv']}, "
            f"at most {gigabytes(sizes['session_bytes'])}"
            + _caches(sizes),
        f"longest context in {gigabytes(answer['best_bytes'])}": ", ".join(
            f"{kv} {'any' if n is None else format(n, ',')}" for kv, n in answer["contexts"].items()
        ) + ", with the fewest experts",
        "an expert's slot": ", ".join(gigabytes(k[0]) for k in sizes["classes"]) or "none",
        "experts": f"{sizes['n_experts']:,} in {sizes['n_layers']} layers, "
                   f"{sizes['top_k']} a token and layer",
        "all experts in memory": gigabytes(answer["experts_bytes"]),
        "minimum memory": f"{gigabytes(answer['minimum_bytes'])} ({answer['minimum_bytes']} bytes)",
        "this device advises": "nothing" if answer["advised_bytes"] is None
                               else f"at most {gigabytes(answer['advised_bytes'])}",
        "experts of one token": f"{gigabytes(answer['expert_bytes_per_token'])} in "
                                f"{answer['cycle_slots']} slots",
        f"a first prompt of {answer['prompt_tokens']}":
            f"reads {gigabytes(answer['prompt_read_bytes'])}, so the first token comes after "
            f"{answer['prompt_read_seconds']:.1f} s or more",
        "a pass of a prompt": _passes(answer),
        "this disk": ", ".join(f"{gigabytes(rate)}/s by {batch}"
                               for batch, rate in machine["disk"]["by_batch"].items())
                     + f" ({machine['disk']['mode']})",
        "this memory": f"{gigabytes(machine['memory_rate'])}/s",
        "its kernels": f"{gigabytes(machine['kernels']['bytes_per_second'])}/s with "
                       f"{machine['threads']} threads, {answer['precision']}, "
                       f"{machine['kernels']['stage_seconds'] * 1e6:.0f} us a stage",
    }  # fmt: skip


def _caches(sizes: dict[str, Any]) -> str:
    """What a session's KV caches take."""
    told = ""
    for nbytes, window, most in sizes["caches"]:
        told += f", and {gigabytes(nbytes)} for every {sizes['extent']} of them"
        if window:
            told += f" up to {most * sizes['extent']} in layers that see {window}"
    return told


def _passes(answer: dict[str, Any]) -> str:
    """Tokens of a pass by memory, and what a wide one computes in."""
    shown, last = [], None
    for row in answer["rows"]:
        if row["rows"] != last:
            aside = (
                f" (in {gigabytes(row['pass_bytes'])} of the slots)" if row["pass_bytes"] else ""
            )
            shown.append(f"{row['rows']:,} tokens{aside} at {gigabytes(row['memory_bytes'])}")
        last = row["rows"]
    return ", ".join(shown)


def draw(path: Path, answer: dict[str, Any]) -> None:
    """The chart of --plot."""
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
