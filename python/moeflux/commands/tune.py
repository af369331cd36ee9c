"""`moeflux tune`: the smallest budget that is nearly as fast as all of the memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .. import arguments, errors
from ..terminal import show
from . import options, seen_runs

if TYPE_CHECKING:
    from ..planning.knee import Knee
    from ..planning.plan import Sizes

PROMPT, WARMUP = 32, 32  # tokens before the clock
RULES = {
    "--tokens": arguments.integer(1),
    "--within": arguments.number("in 0.1..1", lambda value: 0.1 <= value <= 1),
}
OPENING = "The following is a longer text on how computers use memory and disks."


def tune(
    model: options.ModelArgument = None,
    named: options.Model = None,
    memory: options.Memory = "auto",
    context: options.Context = options.CONTEXT,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="Tokens on the clock.")] = 64,
    within: Annotated[float, typer.Option(help="Share of the best speed to keep.")] = 0.9,
    text: Annotated[
        Optional[Path],
        typer.Option(help="Feed this text's tokens; without it what the model itself writes."),
    ] = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    precision: options.Precision = "float32",
    kv: options.Kv = None,
    read_ahead: options.ReadAhead = True,
    revision: options.Revision = None,
    offline: options.Offline = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Find the smallest budget that keeps nine tenths of the speed, by short runs.

    --memory bounds what is tried. What is found is remembered on this machine: `moeflux plan`
    says it.
    """
    from .. import hub
    from ..bench import Setting
    from ..checkpoint import open_checkpoint
    from ..device import default_threads, device_budget, kind_of, open_device
    from ..planning import plan

    model = options.one_model(model, named)
    check = arguments.check
    check("tune", errors.FormatError, RULES, {"--tokens": tokens, "--within": within})
    native = open_device(device, precision)
    checkpoint = open_checkpoint(hub.resolve(model, revision, offline))
    threads = default_threads(checkpoint.nbytes) if threads is None else threads
    given = device_budget(memory, native)
    setting = Setting(str(given), threads, precision, PROMPT, WARMUP, tokens, 1, kind_of(native),
                      read_ahead, kv)  # fmt: skip
    runs = seen_runs.Runs(checkpoint, setting, native)
    wanted = plan.measure(checkpoint, runs.spec, context, threads, precision, native, read_ahead,
                          kv=kv)  # fmt: skip
    most = plan.fit(wanted, given).slots  # a budget that is too small is refused here
    least = plan.fit(wanted, plan.minimum_bytes(wanted)).slots
    knee = runs.knee(within, least, most, _ids(runs, setting, text))
    _show(str(model or "demo"), wanted, knee, as_json)


def _show(model: str, sizes: Sizes, knee: Knee, as_json: bool) -> None:
    from ..memory import as_size

    found = seen_runs.budget(sizes, knee.at)
    tried = [(seen_runs.budget(sizes, slots), knee.tried[slots]) for slots in sorted(knee.tried)]
    if as_json:
        print(json.dumps({
            "model": model, "context": sizes.context, "memory_bytes": found,
            "tokens_per_second": knee.rate, "best_tokens_per_second": knee.best,
            "tried": [{"memory_bytes": n, "tokens_per_second": rate} for n, rate in tried],
        }, indent=2))  # fmt: skip
        return
    for memory_bytes, rate in tried:
        show(f"{as_size(memory_bytes):>10}  {rate:8.2f} tokens/s")
    show(f"{as_size(found)} keeps {knee.rate / knee.best:.0%} of the best speed seen: "
         f"--memory {as_size(found)}")  # fmt: skip


def _ids(runs: Any, setting: Any, text: Path | None) -> Callable[[], list[int]]:
    """The tokens to feed: of a text, or what the model writes at the largest budget."""
    from .bench import ids_of

    if text is not None:
        found = ids_of(text, runs.checkpoint)
        return lambda: found
    return lambda: runs.written(OPENING, setting.context)
