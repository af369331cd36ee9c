"""`moeflux plan` without a model: which known checkpoints suit this machine, or a given one."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..terminal import show
from .plan_shown import gigabytes

if TYPE_CHECKING:
    from ..known import Known
    from ..planning.given import Given
    from ..planning.verdict import Verdict

PROBE_SECONDS = 0.3  # for the disk, once for all checkpoints


def show_known(budgets: list[str], given: Given, threads: int | None, as_json: bool) -> None:
    """Prints a line for each known checkpoint, the fastest first.

    Speeds are for a context of 8192 tokens at float32, and rougher than a plan of one model: what a
    disk and the memory do is measured, not what kernels of this shape do.

    Raises:
        FormatError: a budget is no size.
    """
    from .. import memory
    from ..device import default_threads
    from ..known import checkpoints
    from ..planning import probe

    threads = threads or default_threads()
    budget = max(map(memory.budget_bytes, budgets)) if budgets else given.budget(None)
    if given.disk_rate is not None and given.memory_rate is not None:
        rates = given.disk_rate, given.memory_rate
    else:
        drive = probe.disk(probe.models_folder(), seconds=PROBE_SECONDS)
        rates = drive.best, probe.memory(threads)
    found = [(row, verdict(row, budget, rates, threads)) for row in checkpoints()]
    found.sort(key=lambda pair: -(pair[1].tokens_per_second or 0.0))
    if as_json:
        print(json.dumps({
            "memory_bytes": budget, "disk_rate": rates[0], "memory_rate": rates[1],
            "threads": threads,
            "checkpoints": [row._asdict() | {"verdict": asdict(said)} for row, said in found],
        }, indent=2))  # fmt: skip
        return
    show(f"In {memory.as_size(budget)}, a disk of {gigabytes(rates[0])}/s and a memory of "
         f"{gigabytes(rates[1])}/s, at float32; roughly:")  # fmt: skip
    _table(found)
    show("moeflux plan NAME says more of one; other checkpoints run, too (docs/models.md).")


def verdict(row: Known, budget: int, rates: tuple[float, float], threads: int) -> Verdict:
    """What is expected of a checkpoint in a budget, by rates of disk and memory in bytes/s."""
    from ..planning import curves, given
    from ..planning import plan as planner
    from ..planning.verdict import judge

    sizes = planner.Sizes(**row.sizes)
    machine = given.machine(sizes, *rates, threads)
    least = planner.minimum_bytes(sizes)
    most = min(budget, sizes.fixed_bytes + sizes.slots_bytes(sizes.n_experts))
    rate = 0.0
    if budget >= least:
        curve = curves.find(row.family, sizes.experts_per_layer)
        (planned,) = planner.rows(sizes, machine, [most], curve=curve)
        rate = planned.speeds[-1].tokens_per_second
    return judge(rate, most, least, next(iter(row.hub), row.name.split(",")[0]))


def _table(found: list[tuple[Known, Verdict]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..planning.verdict import NO, spoken

    table = Table(box=None)
    for column, side in (("", "left"), ("tokens/s", "right"), ("name", "left"), ("files", "right"),
                         ("least", "right")):  # fmt: skip
        table.add_column(column, justify=side, no_wrap=True)  # type: ignore[arg-type]
    for row, said in found:
        rate = "" if said.word == NO.word else spoken(said.tokens_per_second or 0.0)
        table.add_row(said.word, rate, ", ".join(row.hub) or row.name,
                      gigabytes(row.file_bytes), gigabytes(said.minimum_bytes))  # fmt: skip
    Console().print(table)
