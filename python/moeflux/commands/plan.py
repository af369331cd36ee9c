"""`moeflux plan`: what a model needs and how fast it would be, before it is downloaded."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ..errors import FormatError
from . import options, plan_shown, seen_runs

if TYPE_CHECKING:
    from ..planning.curves import Curve
    from ..planning.given import Given
    from ..planning.plan import Row, Sizes, Speed
    from ..planning.rates import Machine
    from ..planning.seen import Run
    from ..planning.verdict import Verdict
    from ..remote import Headers

Ram = Annotated[
    Optional[str], typer.Option(help="Plan for a machine of so much memory, such as 16GiB.")
]
DiskRate = Annotated[
    Optional[float],
    typer.Option("--disk-gb-s", help="Its disk's GB/s, as data sheets say; with --mem-gb-s."),
]
MemoryRate = Annotated[
    Optional[float], typer.Option("--mem-gb-s", help="Its memory's GB/s; with --disk-gb-s.")
]


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
    ram: Ram = None,
    disk_gb_s: DiskRate = None,
    mem_gb_s: MemoryRate = None,
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
    Rates come from a probe of a few seconds, or from --disk-gb-s and --mem-gb-s. Without a model:
    which known checkpoints suit this machine. The exit status is 0 for GOOD, 3 for SLOW (fewer than
    5 tokens/s), 4 for POOR (fewer than 1), 5 for what does not fit.
    """
    from ..planning.given import Given
    from ..planning.line_chart import require_writable

    given = Given.read(ram, disk_gb_s, mem_gb_s)
    asked = Asked(options.one_model(model, named), context, threads, device, precision, rows, kv,
                  read_ahead, hit_rate, given, folder)  # fmt: skip
    budgets = options.budgets(memory)
    asked.check(budgets)
    if plot is not None:
        require_writable(plot)  # one that cannot be written is refused before the probe
    if asked.model is None:
        from . import catalogue

        asked.need_no_model(plot)
        catalogue.show_known(budgets, given, threads, as_json)
        return
    answer, verdict = _plan(asked, budgets, revision, offline)
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        plan_shown.show_plan(answer)
    if plot is not None:
        plan_shown.draw(plot, answer)
    raise typer.Exit(verdict.status)


@dataclass(frozen=True)
class Asked:
    """What was asked of a plan."""

    model: str | None
    context: int
    threads: int | None
    device: str
    precision: str
    rows: int | None
    kv: str | None
    read_ahead: bool
    hit_rate: float | None
    given: Given
    folder: Path | None

    def check(self, budgets: list[str]) -> None:
        """Raises FormatError for what no load takes, before anything is opened."""
        from .. import device as devices
        from ..arguments import check, number, optional
        from ..model import RULES

        rate = optional(number("in 0..1", lambda value: 0 <= value <= 1))
        for text in budgets or ("auto",):
            rules = RULES | {"hit_rate": rate}
            check("plan", FormatError, rules, vars(self) | {"memory": text})
        kind = devices.kind_of(self.native)
        devices.check_precision(self.precision, kind)
        devices.check_kv(self.kv, self.device)

    def need_no_model(self, plot: Path | None) -> None:
        """Raises FormatError for what says something of one model, of which none is named."""
        fixed = {"context": options.CONTEXT, "device": "cpu", "precision": "float32", "rows": None,
                 "kv": None, "read_ahead": True, "hit_rate": None, "folder": None}  # fmt: skip
        of_one = [name for name, usual in fixed.items() if getattr(self, name) != usual]
        of_one += ["plot"] if plot is not None else []
        if of_one:
            name = of_one[0].replace("_", "-")
            raise FormatError(f"[plan] expected a model for --{name}, found none")

    @property
    def native(self) -> Any:
        """The device, open; None for the CPU."""
        from ..device import open_device

        return open_device(self.device, self.precision)


def _plan(
    asked: Asked, texts: list[str], revision: str | None, offline: bool
) -> tuple[dict[str, Any], Verdict]:
    from .. import device as devices
    from ..families import build_spec
    from ..model import check_rows
    from ..planning import plan as planner
    from ..remote import open_headers
    from ..spec import tree

    native = asked.native
    found = open_headers(asked.model, revision, offline)
    checkpoint = found.checkpoint
    threads = devices.default_threads(checkpoint.nbytes) if asked.threads is None else asked.threads
    spec = build_spec(checkpoint)
    check_rows(asked.rows, spec)
    native = devices.suited(asked.device, native, tree(spec), checkpoint.file_bytes, asked.context,
                            asked.kv)  # fmt: skip
    sizes = planner.measure(checkpoint, spec, asked.context, threads, asked.precision, native,
                             asked.read_ahead, asked.rows, asked.kv)  # fmt: skip
    budgets, best = _budgets(asked, texts, sizes, native)
    machine = _machine(asked, found, spec, sizes, threads, native)
    runs = _runs(asked, found, threads, native)
    curve, told = _curve(asked.hit_rate, checkpoint.config, sizes, runs)
    rows = planner.rows(sizes, machine, budgets, asked.hit_rate, curve=curve)
    verdict = _verdict(asked, found, sizes, machine, best, curve, runs)

    def context(kv: str) -> int | None:
        of_kv = planner.measure(checkpoint, spec, asked.context, threads, asked.precision, native,
                                asked.read_ahead, asked.rows, kv)  # fmt: skip
        return planner.longest_context(of_kv, best)

    answer = {
        "model": str(checkpoint.path),
        "device": devices.kind_of(native),
        "precision": asked.precision,
        "kv": asked.kv or ("float32" if asked.precision == "float32" else "bfloat16"),
        "best_bytes": best,
        "contexts": {kv: context(kv) for kv in devices.caches_of(devices.kind_of(native))},
        "advised_bytes": devices.advised_bytes(native),
        "routing": _routing(asked.hit_rate, curve),
        "curve": told,
        **_answer(sizes, machine, rows, spec.chunk),
        "verdict": asdict(verdict) | {"answer_seconds": verdict.answer_seconds,
                                      "sentence": verdict.sentence},
    }  # fmt: skip
    return answer, verdict


def _budgets(asked: Asked, texts: list[str], sizes: Sizes, native: Any) -> tuple[list[int], int]:
    """Budgets of the table, and the one that the verdict is on. Raises MemoryBudgetError."""
    from .. import device as devices
    from ..planning import plan as planner

    budgets = [devices.device_budget(text, native) for text in texts]
    whole = sizes.fixed_bytes + sizes.slots_bytes(sizes.n_experts)
    best = max(budgets) if budgets else min(asked.given.budget(native), whole)
    budgets = budgets or planner.usual_budgets(sizes, devices.advised_bytes(native))
    for budget in budgets:
        planner.fit(sizes, budget)  # one that is too small is refused before the probe
    return budgets, best


def _machine(
    asked: Asked, found: Headers, spec: Any, sizes: Sizes, threads: int, native: Any
) -> Machine:
    """This machine's rates, or those that were given."""
    from ..planning import given, probe

    if asked.given.disk_rate is not None and asked.given.memory_rate is not None:
        return given.machine(sizes, asked.given.disk_rate, asked.given.memory_rate, threads)
    files = found.checkpoint.files if found.is_local else ()
    return probe.machine(spec, files, sizes.slot_bytes, threads, asked.folder, native,
                         asked.precision)  # fmt: skip


def _runs(asked: Asked, found: Headers, threads: int, native: Any) -> list[Run]:
    """What runs of this model have shown here; of a machine that was given, nothing."""
    from ..device import kind_of
    from ..identity import of_weights
    from ..planning import seen

    if not found.is_local or asked.given.disk_rate is not None:
        return []
    weights = of_weights(found.checkpoint, found.checkpoint.config)
    return seen.of(seen.How(weights, seen.here(), kind_of(native), asked.precision, asked.kv or "",
                            threads, asked.read_ahead))  # fmt: skip


def _curve(
    hit_rate: float | None, config: dict[str, Any], sizes: Sizes, runs: list[Run]
) -> tuple[Curve | None, str | None]:
    """The curve of hit rates, and where it is from."""
    from ..planning import curves, seen
    from ..planning import hit_rate as formula
    from ..planning.plan import SKEW

    if hit_rate is not None:
        return None, None
    family, each = str(config.get("model_type")), max(sizes.experts_per_layer, 1)
    curve = curves.find(family, sizes.experts_per_layer)
    inside = [run for run in runs if 0 < run.share < 1]
    if not inside:
        return curve, None if curve is None else curves.describe(curve, family)

    def skewed(share: float) -> float:
        return formula.hit_rate(share, each, max(sizes.top_k, 1), SKEW)

    base = skewed if curve is None else curve.hit_rate
    told = f"as runs on this machine showed at {len(inside)} budget{'s' * (len(inside) > 1)}"
    return seen.bent(base, inside, (each, sizes.top_k)), told


def _verdict(
    asked: Asked, found: Headers, sizes: Sizes, machine: Machine, budget: int, curve: Curve | None,
    runs: list[Run],
) -> Verdict:  # fmt: skip
    from ..planning import plan as planner
    from ..planning import seen
    from ..planning.verdict import judge

    least, known, rate = planner.minimum_bytes(sizes), None, 0.0
    if budget >= least:
        (row,) = planner.rows(sizes, machine, [budget], asked.hit_rate, curve=curve)
        known = seen.near(runs, row.fit.share)
        rate = row.speeds[-1].tokens_per_second if known is None else known.tokens_per_second
    share = seen.tuned_share(runs)
    tuned = None if share is None else seen_runs.budget(sizes, math.ceil(share * sizes.n_experts))
    return judge(rate, budget, least, str(asked.model), _talks(found), known is not None,
                 None if tuned is None or tuned >= budget else tuned)  # fmt: skip


def _talks(found: Headers) -> bool:
    """Whether there is a chat template, as far as it can be told."""
    from ..errors import MoefluxError
    from ..tokenizer import Tokenizer

    if found.is_local:
        with contextlib.suppress(MoefluxError):  # a plan needs no tokenizer
            return Tokenizer(found.checkpoint.path, found.checkpoint.config).has_template
    return True


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


def _routing(hit_rate: float | None, curve: Curve | None) -> list[str]:
    """What the speeds of a row assume."""
    if hit_rate is not None:
        return ["as given"]
    return ["uniform", "skewed" if curve is None else "measured"]
