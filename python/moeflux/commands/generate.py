"""`moeflux generate`: continue a text."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .. import errors
from ..terminal import escape_controls, note
from . import options

if TYPE_CHECKING:
    from ..generation import Part
    from ..model import Model


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
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise errors.IoError(f"[cli] cannot read the prompt: {error}") from None


def generate(
    prompt: Annotated[
        Optional[str], typer.Argument(help="Text to continue; standard input without it.")
    ] = None,
    model: options.Model = None,
    file: Annotated[
        Optional[Path], typer.Option("--file", "-f", help="Read the prompt from here.")
    ] = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    memory: options.Memory = "auto",
    context: options.Context = 4096,
    max_tokens: options.MaxTokens = 256,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    seed: options.Seed = None,
    stop: options.Stop = None,
    device: options.Device = "cpu",
    precision: options.Precision = "float32",
    threads: options.Threads = None,
    read_ahead: options.ReadAhead = True,
    chat: Annotated[bool, typer.Option(help="Send the prompt through the chat template.")] = False,
    echo: Annotated[bool, typer.Option(help="Print the prompt before its continuation.")] = False,
    as_json: options.AsJson = False,
    stats: Annotated[
        bool, typer.Option(help="A line on standard error about speed and streaming.")
    ] = True,
    verbose: options.Verbose = False,
) -> None:
    """Continue a text."""
    from ..model import load
    from ..stream import stream_generate

    sampling = options.sampling(
        max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop
    )
    text = _prompt(prompt, file)
    loaded = load(
        model, memory=memory, context=context, device=device, precision=precision,
        threads=threads, read_ahead=read_ahead, revision=revision, offline=offline,
    )  # fmt: skip
    source: dict[str, Any] = (
        {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    )
    begin = time.perf_counter()
    if echo and not as_json:
        _write(text)
    parts = []
    for part in stream_generate(loaded, **source, **sampling):
        parts.append(part)
        if not as_json:
            _write(part.text)
    seconds = time.perf_counter() - begin
    if as_json:
        print(json.dumps(_answer(loaded, parts, seconds), indent=2))
        return
    print()
    if stats and loaded.revision:
        note(f"[{model} at {loaded.revision}]")
    if stats:
        note(_summary(loaded.stats, parts, seconds))


def _write(text: str) -> None:
    print(escape_controls(text), end="", flush=True)


def _answer(model: Model, parts: list[Part], seconds: float) -> dict[str, Any]:
    return {
        "text": "".join(part.text for part in parts),
        "tokens": [part.token for part in parts if part.token is not None],
        "finish_reason": parts[-1].finish_reason,
        "seconds": seconds,
        "revision": model.revision,
        "stats": model.stats,
    }


def _summary(counters: dict[str, Any], parts: list[Part], seconds: float) -> str:
    n_tokens = sum(part.token is not None for part in parts)
    reads = counters["hits"] + counters["misses"]
    return (
        f"[{n_tokens} tokens in {seconds:.1f} s, prompt included; experts: {counters['misses']}"
        f" of {reads} missed, {counters['bytes_read'] / 1e6:.0f} MB read "
        f"({counters['read_mode']}); memory {counters['live_bytes'] / 1e6:.0f} of "
        f"{counters['memory_bytes'] / 1e6:.0f} MB]"
    )
