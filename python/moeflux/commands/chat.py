"""`moeflux chat`: talk to a model."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .. import errors
from ..terminal import escape_controls, note
from . import options

if TYPE_CHECKING:
    from ..conversation import Conversation

HELP = "[/reset starts over, /exit (or Ctrl-D) ends, Ctrl-C stops an answer]"


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
    verbose: options.Verbose = False,
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
        note(f"[{model} at {loaded.revision}]")
    note(HELP)
    _talk(talk, sampling)


def _talk(talk: Conversation, sampling: dict[str, Any]) -> None:
    while (line := _ask()) is not None:
        if line in ("/exit", "/quit"):
            return
        if line == "/reset":
            talk.reset()
        elif line == "/help":
            note(HELP)
        elif re.match(r"/\w+(\s|$)", line):
            note(f"[no command {escape_controls(line.split()[0])}: {HELP[1:]}")
        elif line:
            _answer(talk, line, sampling)


def _ask() -> str | None:
    """The next line; None at the end of input, or after Ctrl-C twice at a terminal."""
    is_terminal = sys.stdin.isatty()
    for is_last in (False, True):
        try:
            return input("> " if is_terminal else "").strip()
        except EOFError:
            break
        except UnicodeDecodeError as error:
            raise errors.IoError(f"[chat] cannot read the question: {error}") from None
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            if not is_last:
                note("\n[Ctrl-C once more, or Ctrl-D, ends]")
    if is_terminal:
        print(file=sys.stderr)
    return None


def _answer(talk: Conversation, question: str, sampling: dict[str, Any]) -> None:
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
        note(f"moeflux: {escape_controls(str(error))}; /reset starts over")
        return
    print()
    now = time.perf_counter()
    first = first if first is not None else now
    speed = (n_tokens - 1) / (now - first) if n_tokens > 1 and now > first else 0.0
    note(
        f"[{n_tokens} tokens, {speed:.1f} tok/s, first after {first - begin:.1f} s{end}; "
        f"{talk.n_held} in the context]"
    )
