"""`moeflux chat`: talk to a model."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Annotated, Any, Optional

import typer

from .. import errors
from ..terminal import escape_controls
from . import options

HELP = "/reset starts over, /exit (or Ctrl-D) ends, Ctrl-C stops an answer"


def chat(
    model: options.Model = None,
    system: Annotated[Optional[str], typer.Option(help="The system message.")] = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    memory: options.Memory = "auto",
    context: options.Context = 8192,
    max_tokens: options.MaxTokens = 1024,
    temperature: options.Temperature = 0.7,
    top_k: options.TopK = 0,
    top_p: options.TopP = 0.9,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    seed: options.Seed = None,
    stop: options.Stop = None,
    device: options.Device = "cpu",
    precision: options.Precision = "float32",
    threads: options.Threads = None,
    read_ahead: options.ReadAhead = True,
) -> None:
    """Talk to a model. Type /help for what a line can be besides a question."""
    from ..conversation import Conversation
    from ..model import load

    sampling = options.sampling(
        max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop
    )
    loaded = load(
        model, memory=memory, context=context, device=device, precision=precision,
        threads=threads, read_ahead=read_ahead, revision=revision, offline=offline,
    )  # fmt: skip
    if not loaded.tokenizer.has_template:
        raise errors.TemplateError(
            f"[chat] this model has no chat template, it only continues text: use "
            f"`moeflux generate` ({loaded.path})"
        )
    talk = Conversation(loaded, system)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history of questions)
    if loaded.revision:
        print(f"[{model} at {loaded.revision}]", file=sys.stderr)
    print(f"[{HELP}]", file=sys.stderr)
    while (line := _ask()) is not None:
        if line in ("/exit", "/quit"):
            return
        if line == "/reset":
            talk.reset()
        elif line == "/help":
            print(f"[{HELP}]", file=sys.stderr)
        elif line:
            _answer(talk, line, sampling)


def _ask() -> str | None:
    """The next line; None at the end of input."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


def _answer(talk: Any, question: str, sampling: dict[str, Any]) -> None:
    begin = time.perf_counter()
    first, n_tokens, end = None, 0, ""
    try:
        for part in talk.reply(question, **sampling):
            first = first if first is not None else time.perf_counter()
            n_tokens += part.token is not None
            print(escape_controls(part.text), end="", flush=True)
    except KeyboardInterrupt:
        end = ", stopped"
    except errors.SessionError as error:
        print(f"moeflux: {escape_controls(str(error))}; /reset starts over", file=sys.stderr)
        return
    print()
    now = time.perf_counter()
    first = first if first is not None else now
    speed = (n_tokens - 1) / (now - first) if n_tokens > 1 and now > first else 0.0
    print(
        f"[{n_tokens} tokens, {speed:.1f} tok/s, first after {first - begin:.1f} s{end}; "
        f"{talk.n_held} in the context]",
        file=sys.stderr,
    )
