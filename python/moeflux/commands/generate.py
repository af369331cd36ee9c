"""`moeflux generate`: continue a text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .. import errors
from ..terminal import escape_controls, note
from ..thinking import parted
from . import options
from .meter import Meter, Shown, waiting

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
    context: options.Context = options.CONTEXT,
    max_tokens: options.MaxTokens = 256,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    device: options.Device = "cpu",
    precision: options.Precision = "float32",
    kv: options.Kv = None,
    threads: options.Threads = None,
    read_ahead: options.ReadAhead = True,
    chat: Annotated[bool, typer.Option(help="Send the prompt through the chat template.")] = False,
    think: options.Think = None,
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
        max_tokens, seed, stop, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty,
    )  # fmt: skip
    text = _prompt(prompt, file)
    if think is not None and not chat:
        raise errors.SessionError("[cli] expected --chat with --think or --no-think")
    with waiting("loading"):
        loaded = load(
            model, memory=memory, context=context, device=device, precision=precision, kv=kv,
            threads=threads, read_ahead=read_ahead, revision=revision, offline=offline,
        )  # fmt: skip
    sampling, told = options.completed(sampling, loaded, {})
    ids, end = _encoded(loaded, text, chat, think)
    meter, shown, parts = Meter(), Shown((lambda: end) if chat else None), []
    if echo and not as_json:
        print(escape_controls(text), end="", flush=True)
    written = stream_generate(loaded, ids, **sampling, progress=meter.progress)
    for part in meter.follow(written):
        parts.append(part)
        if not as_json:
            shown.write(part.text)
    if as_json:
        answer = _answer(loaded, parts, meter, sampling)
        if chat:
            answer["thinking"], answer["answer"] = parted(answer["text"], end)
        print(json.dumps(answer, indent=2))
        return
    shown.end()
    if stats:
        lines = [loaded.revision and f"[{model} at {loaded.revision}]", told,
                 f"[{meter.line()}]", _summary(loaded.stats)]  # fmt: skip
        note("\n".join(line for line in lines if line))


def _encoded(model: Model, text: str, chat: bool, think: bool | None) -> tuple[list[int], str]:
    """The prompt's ids, and the end of what a template made of it."""
    tokenizer = model.tokenizer
    if not chat:
        return tokenizer.encode(text), ""
    messages = [{"role": "user", "content": text}]
    ids = tokenizer.encode_chat(messages, **options.chat_options(think))
    return ids, tokenizer.decode(ids[-16:], skip_special_tokens=False)


def _answer(
    model: Model, parts: list[Part], meter: Meter, sampling: dict[str, Any]
) -> dict[str, Any]:
    return {
        "text": "".join(part.text for part in parts),
        "tokens": [part.token for part in parts if part.token is not None],
        "finish_reason": parts[-1].finish_reason,
        "seconds": meter.first_seconds + meter.decode_seconds,
        **meter.numbers(),
        "sampling": sampling,
        "revision": model.revision,
        "stats": model.stats,
    }


def _summary(counters: dict[str, Any]) -> str:
    reads = counters["hits"] + counters["misses"]
    return (
        f"[experts: {counters['misses']} of {reads} missed, "
        f"{counters['bytes_read'] / 1e6:.0f} MB read ({counters['read_mode']}); memory "
        f"{counters['live_bytes'] / 1e6:.0f} of {counters['memory_bytes'] / 1e6:.0f} MB]"
    )
