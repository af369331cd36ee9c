"""`moeflux bench`: tokens a second, and where the rest went."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .. import arguments, errors
from ..terminal import escape_controls, show
from . import options

if TYPE_CHECKING:
    from ..bench import Setting
    from ..checkpoint import Checkpoint
    from ..planning.plan import Sizes
    from ..spec import Spec

RULES = {
    "--prompt": arguments.integer(1),
    "--tokens": arguments.integer(1),
    "--warmup": arguments.integer(0),
}


def bench(
    model: options.ModelArgument = None,
    named: options.Model = None,
    memory: options.Memories = None,
    threads: Annotated[Optional[str], typer.Option(help="Thread counts: 1,2.")] = None,
    precision: Annotated[str, typer.Option(help="Precisions: float32,bfloat16.")] = "float32",
    device: options.Device = "cpu",
    kv: options.Kv = None,
    read_ahead: options.ReadAhead = True,
    sequences: Annotated[str, typer.Option(help="Sequences decoded together: 1,8.")] = "1",
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 512,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="Tokens on the clock.")] = 256,
    warmup: Annotated[int, typer.Option(help="Tokens decoded before it.")] = 64,
    text: Annotated[
        Optional[Path],
        typer.Option(help="Feed this text's tokens; random ones without it."),
    ] = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    plot: Annotated[
        Optional[Path],
        typer.Option(help="Draw tokens/s over the budget, beside the bound, into this file."),
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Print a block for docs/macs.md, to be pasted.")
    ] = False,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure prefill and decode at every combination of the settings given.

    Bounds come from this machine's disk and memory, measured first. Random tokens route like noise:
    name a text for hit rates that mean something: `moeflux plan` remembers those.
    """
    from .. import hub
    from ..bench import Setting
    from ..checkpoint import open_checkpoint
    from ..device import default_threads, kind_of, open_device, suited
    from ..families import build_spec
    from ..identity import of_weights
    from ..spec import tree
    from .seen_runs import remember

    model = options.one_model(model, named)
    lengths = {"--prompt": prompt, "--tokens": tokens, "--warmup": warmup}
    arguments.check("bench", errors.FormatError, RULES, lengths)
    native_device = open_device(device, *precision.split(","))
    counts = [default_threads()] if threads is None else _numbers(threads, "--threads")
    together = _numbers(sequences, "--sequences")
    budgets = options.budgets(memory) or ["auto"]
    checkpoint = open_checkpoint(hub.resolve(model, revision, offline))
    spec = build_spec(checkpoint)
    native_device = suited(device, native_device, tree(spec), checkpoint.file_bytes,
                           prompt + warmup + tokens, kv)  # fmt: skip
    kind = kind_of(native_device)
    settings = [
        Setting(budget, count, name, prompt, warmup, tokens, number, kind, read_ahead, kv)
        for budget, count, name, number in product(budgets, counts, precision.split(","), together)
    ]
    sizes = [_sizes(setting, checkpoint, spec, native_device) for setting in settings]
    ids = _random_ids(spec.vocab) if text is None else ids_of(text, checkpoint)
    report = {"model": str(model or "demo"),
              **_measured(settings, sizes, checkpoint, spec, native_device, ids)}  # fmt: skip
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _show(report)
    if text is not None:  # random tokens show no hit rate that a plan could use
        weights = of_weights(checkpoint, checkpoint.config)
        for run, size in zip(report["runs"], sizes, strict=True):
            remember(weights, size, run)
    if share:
        print("\n".join(_shared(report, native_device)))
    if plot is not None:
        _draw(plot, report)


def _shared(report: dict[str, Any], native_device: Any) -> list[str]:
    """A block that a stranger may paste: no path, no name of a file or of a person."""
    import platform

    from .._version import __version__
    from ..memory import available_bytes

    chip = native_device.name if native_device is not None else platform.machine()
    system = platform.mac_ver()[0] or platform.system()
    lines = ["```text", f"moeflux {__version__} bench on {escape_controls(chip)}, {system}, "
             f"{available_bytes() / 1e9:.0f} GB free"]  # fmt: skip
    lines.append(", ".join(f"{key} {value:.2f}" for key, value in report["machine"].items()))
    for run in report["runs"]:
        decode, prefill, of = run["decode"], run["prefill"], run["setting"]
        note = " (shaders on the CPU: no GPU's speed)" if of["device"] == "host" else ""
        lines.append(
            f"{of['device']}{note}, {of['precision']}, {run['memory_bytes'] / 1e9:.2f} GB: prompt "
            f"{prefill['tokens_per_second']:.2f}, text {decode['tokens_per_second']:.2f} tokens/s"
        )
    model = Path(report["model"]).name  # a folder's own name alone
    return [*lines, f"model: {escape_controls(model)}", "```"]


def _sizes(setting: Setting, checkpoint: Checkpoint, spec: Spec, device: Any) -> Sizes:
    """What a setting takes; one that cannot be had is refused before the first one runs."""
    from ..device import check_kv, check_precision, device_budget
    from ..model import RULES as OF_LOAD
    from ..planning import plan

    asked = asdict(setting) | {"context": setting.context}
    arguments.check("bench", errors.FormatError, OF_LOAD, asked)
    check_precision(setting.precision, setting.device)
    check_kv(setting.kv, setting.device)
    sizes = plan.measure(checkpoint, spec, setting.context, setting.threads, setting.precision,
                         device, setting.read_ahead, kv=setting.kv)  # fmt: skip
    budget = device_budget(setting.memory, device)
    plan.fit(sizes, budget)
    least = plan.minimum_bytes(sizes) + (setting.sequences - 1) * sizes.session_bytes
    if least > budget:
        raise errors.MemoryBudgetError(
            f"[bench] no room for {setting.sequences} sequences: expected --memory {least} or "
            f"more, found {budget}"
        )
    return sizes


def _measured(
    settings: list[Setting],
    sizes: list[Sizes],
    checkpoint: Checkpoint,
    spec: Spec,
    device: Any,
    ids: list[int],
) -> dict[str, Any]:
    from rich.console import Console

    from .. import bench as work
    from ..planning import probe

    threads = max(setting.threads for setting in settings)
    with Console(stderr=True).status("measuring the disk and the memory") as status:
        slot_bytes = sizes[0].slot_bytes
        machine = probe.machine(spec, checkpoint.files, slot_bytes, threads, device=device)
        runs = []
        for number, (setting, size) in enumerate(zip(settings, sizes, strict=True), start=1):

            def progress(what: str, number: int = number) -> None:
                status.update(f"{number} of {len(settings)}: {what}")

            runs.append(work.measure(checkpoint.path, size, setting, machine, ids, progress))
    rates = {"disk_gb_per_second": machine.disk.best / 1e9,
             "memory_gb_per_second": machine.memory_rate / 1e9}  # fmt: skip
    return {"machine": rates, "runs": runs}


def ids_of(text: Path, checkpoint: Checkpoint) -> list[int]:
    """The tokens of a text. Raises IoError, and FormatError for one without any."""
    from ..tokenizer import Tokenizer

    try:
        content = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.IoError(f"[cli] cannot read the text: {error}") from None
    ids = Tokenizer(checkpoint.path, checkpoint.config).encode(content)
    if not ids:
        raise errors.FormatError(f"[cli] expected a text of at least one token ({text})")
    return ids


def _draw(path: Path, report: dict[str, Any]) -> None:
    """A pair of lines, reached and bound, for each setting but the budget."""
    from ..planning.line_chart import Line, svg, write_svg

    groups: dict[str, list[dict[str, Any]]] = {}
    for run in sorted(report["runs"], key=lambda run: int(run["memory_bytes"])):
        setting = run["setting"]
        name = f"{setting['precision']}, {setting['threads']} threads, {setting['sequences']} seq."
        groups.setdefault(name, []).append(run)
    lines = []
    for name, runs in groups.items():
        at = [run["memory_bytes"] / 1e9 for run in runs]
        reached = [run["decode"]["tokens_per_second"] for run in runs]
        bound = [run["decode"]["tokens"] / run["decode"]["bound_seconds"] for run in runs]
        lines.append(Line(name, list(zip(at, reached, strict=True))))
        lines.append(Line(f"{name}: bound", list(zip(at, bound, strict=True)), dashed=True))
    title = escape_controls(f"{report['model']}: decode")
    write_svg(path, svg(title, "memory budget, GB", "tokens/s", lines))


def _counts(per_token: dict[str, float], device: str) -> str:
    if device == "cpu":
        return ""
    parts = ", ".join(f"{value:.2f} {name}" for name, value in per_token.items())
    note = "; shaders on the CPU: no GPU's speed" if device == "host" else ""
    return f"\n  {device}, a token: {parts}{note}"


def _numbers(text: str, option: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise errors.FormatError(f"[cli] expected numbers such as 1,2 for {option}, found {text!r}")
    return found


def _random_ids(vocab: int) -> list[int]:
    import numpy as np

    return [int(i) for i in np.random.default_rng(0).integers(0, vocab, 4096)]


def _show(report: dict[str, Any]) -> None:
    machine = report["machine"]
    show(
        f"{escape_controls(report['model'])}: disk {machine['disk_gb_per_second']:.2f} GB/s, "
        f"memory {machine['memory_gb_per_second']:.1f} GB/s, measured in this run"
    )
    for run in report["runs"]:
        setting, decode = run["setting"], run["decode"]
        shares = ", ".join(f"{k} {v:.0%}" for k, v in decode["share_of_time"].items() if v > 0.005)
        hits = "-" if decode["hit_rate"] is None else f"{decode['hit_rate']:.0%}"
        show(
            f"memory {setting['memory']}, {setting['threads']} threads, {setting['precision']}, "
            f"cache {run['kv']}, {setting['sequences']} sequence(s)\n"
            f"  prompt of {setting['prompt']}: {run['prefill']['tokens_per_second']:.1f} tok/s, "
            f"first token after {run['time_to_first_token']:.2f} s\n"
            f"  decode: {decode['tokens_per_second']:.2f} tok/s, {hits} hits, "
            f"{decode['gb_read_per_token'] * 1e3:.2f} MB read a token, "
            f"{decode['share_of_bound']:.0%} of the bound\n"
            f"  time: {shares}" + _counts(decode["per_token"], setting["device"])
        )
        device, read = decode["device_bytes"], decode["bytes_read"]
        if device is not None and read:
            kind = "cold" if device >= 0.95 * read else "not cold: a cache answered some"
            show(f"  {device / 1e6:.0f} of {read / 1e6:.0f} MB came from the device ({kind})")
