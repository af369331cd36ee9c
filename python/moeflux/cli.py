"""The command line: `moeflux generate`, `moeflux info` and `moeflux doctor`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from . import __version__, errors

app = typer.Typer(
    help="Runs Mixture-of-Experts language models that are larger than memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[
    Optional[str],  # noqa: UP045  (typer reads the annotation at run time)
    typer.Option("--model", "-m", help="Folder or hub id; the demo model when not given."),
]


def escape_controls(text: str) -> str:
    """Model text as it may reach a terminal: control characters shown, not obeyed."""
    return "".join(
        c if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0) else f"\\x{ord(c):02x}"
        for c in text
    )


def _version(show: bool) -> None:
    if show:
        print(f"moeflux {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is not None and file is not None:
        raise errors.SessionError("[cli] expected either a prompt or --file, found both")
    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise errors.IoError(f"[cli] cannot read the prompt: {error}") from None
    if prompt is not None:
        return prompt
    if sys.stdin.isatty():
        raise errors.SessionError("[cli] expected a prompt as argument, --file or standard input")
    return sys.stdin.read()


@app.command()
def generate(
    prompt: Annotated[
        Optional[str], typer.Argument(help="Text to continue; standard input without it.")  # noqa: UP045
    ] = None,
    model: ModelOption = None,
    file: Annotated[
        Optional[Path], typer.Option("--file", "-f", help="Read the prompt from here.")  # noqa: UP045
    ] = None,
    memory: Annotated[
        str, typer.Option(help="Bound on what the model may hold, such as 12GiB.")
    ] = "auto",
    context: Annotated[int, typer.Option(help="Tokens of prompt and answer.")] = 4096,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Tokens to write.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k best tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Floor relative to the best token.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    seed: Annotated[Optional[int], typer.Option(help="Of the draws.")] = None,  # noqa: UP045
    stop: Annotated[
        Optional[list[str]], typer.Option(help="End the text here; repeatable.")  # noqa: UP045
    ] = None,
    threads: Annotated[Optional[int], typer.Option(help="Compute threads.")] = None,  # noqa: UP045
    chat: Annotated[bool, typer.Option(help="Send the prompt through the chat template.")] = False,
    echo: Annotated[bool, typer.Option(help="Print the prompt before its continuation.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    stats: Annotated[
        bool, typer.Option(help="A line on standard error about speed and streaming.")
    ] = True,
) -> None:
    """Continue a text."""
    from .generation import stream_generate
    from .model import load

    text = _prompt(prompt, file)
    loaded = load(model, memory=memory, context=context, threads=threads)
    source: dict[str, Any] = (
        {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    )
    begin = time.perf_counter()
    parts = []
    if echo and not as_json:
        print(escape_controls(text), end="", flush=True)
    for part in stream_generate(
        loaded, **source, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        min_p=min_p, repetition_penalty=repetition_penalty, seed=seed, stop=stop or (),
    ):  # fmt: skip
        parts.append(part)
        if not as_json:
            print(escape_controls(part.text), end="", flush=True)
    seconds = time.perf_counter() - begin
    counters = loaded.stats
    n_tokens = sum(part.token is not None for part in parts)
    if as_json:
        answer = {
            "text": "".join(part.text for part in parts),
            "tokens": [part.token for part in parts if part.token is not None],
            "finish_reason": parts[-1].finish_reason,
            "seconds": seconds,
            "stats": counters,
        }
        print(json.dumps(answer, indent=2))
        return
    print()
    if stats:
        reads = counters["hits"] + counters["misses"]
        print(
            f"[{n_tokens} tokens in {seconds:.1f} s, prompt included; experts: {counters['misses']}"
            f" of {reads} read from disk ({counters['bytes_read'] / 1e6:.0f} MB, "
            f"{counters['read_mode']}); memory {counters['live_bytes'] / 1e6:.0f} of "
            f"{counters['memory_bytes'] / 1e6:.0f} MB]",
            file=sys.stderr,
        )


@app.command()
def info(
    model: Annotated[
        Optional[str], typer.Argument(help="Folder or hub id; the demo model without it.")  # noqa: UP045
    ] = None,
) -> None:
    """Show what a checkpoint is: family, shapes, sizes. Reads no weights."""
    import numpy as np
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from . import hub
    from .checkpoint import open_checkpoint
    from .families import build_spec

    checkpoint = open_checkpoint(hub.resolve(model))
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


@app.command()
def doctor(
    device: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Examine this one (metal, host); repeatable. All without it."),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure longer; print better matvec table rows.")
    ] = False,
    disk: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A folder on the disk to measure; the hub's cache without it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check every kernel on every device and measure this machine; a report for an issue.

    Exit status 1 when something is wrong.
    """
    from rich.console import Console
    from rich.markup import escape

    from .backend import KINDS
    from .doctor import examine

    with Console(stderr=True).status("starting") as status:
        report = examine(
            device or KINDS,
            disk=disk,
            tune=tune,
            note=lambda text: status.update(escape(escape_controls(text))),
        )
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        print(escape_controls(report.text()))
    if report.problems:
        raise typer.Exit(1)


def main() -> None:
    """Runs the command line; an error of ours is one sentence and exit status 1."""
    try:
        app()
    except errors.MoefluxError as error:
        print(f"moeflux: {escape_controls(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
