"""`moeflux chat`: talk to a model."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .. import errors
from ..terminal import escape_controls, note
from . import kept, options
from .meter import Meter, Shown, waiting

if TYPE_CHECKING:
    from ..conversation import Conversation
    from ..model import Model
    from ..templates import ChatOptions

QUOTES = '"""'
HELP = (
    f"[/reset starts over, /exit (or Ctrl-D) ends, Ctrl-C stops an answer, {QUOTES} begins and "
    "ends several lines]"
)

Resume = Annotated[
    Optional[Path],
    typer.Option(
        help="Go on with the talk in this file, and keep it there. Without such a file a new talk "
        "is begun.",
    ),
]


def chat(
    model: options.ModelArgument = None,
    named: options.Model = None,
    system: Annotated[Optional[str], typer.Option(help="The system message.")] = None,
    resume: Resume = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    memory: options.Memory = "auto",
    context: options.Context = options.CONTEXT,
    max_tokens: options.MaxTokens = 1024,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    think: options.Think = None,
    device: options.Device = "cpu",
    precision: options.Precision = "float32",
    kv: options.Kv = None,
    threads: options.Threads = None,
    read_ahead: options.ReadAhead = True,
    verbose: options.Verbose = False,
) -> None:
    """Talk to a model. Type /help for what a line can be besides a question."""
    from ..model import load

    model = options.one_model(model, named)
    sampling = options.sampling(
        max_tokens, seed, stop, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty,
    )  # fmt: skip
    if resume is not None:
        kept.refuse(resume)
    with kept.alone(resume):
        with waiting("loading"):
            loaded = load(
                model, memory=memory, context=context, device=device, precision=precision, kv=kv,
                threads=threads, read_ahead=read_ahead, revision=revision, offline=offline,
            )  # fmt: skip
        talk = _begin(loaded, system, resume, options.chat_options(think))
        _edit_lines()
        sampling, told = options.completed(sampling, loaded, {"temperature": 0.7, "top_p": 0.9})
        revision_told = loaded.revision and f"[{model} at {loaded.revision}]"
        note("\n".join(line for line in (revision_told, told, _resumed(talk), HELP) if line))
        _talk(talk, sampling, resume)


def _begin(
    model: Model, system: str | None, resume: Path | None, chat: ChatOptions
) -> Conversation:
    from ..conversation import Conversation

    if not model.tokenizer.has_template:
        raise errors.TemplateError(f"[chat] this model has no chat template, it only continues "
                                   f"text: use `moeflux generate`, or `moeflux chat demo-chat` "
                                   f"({model.path})")  # fmt: skip
    if resume is not None and resume.exists():
        return Conversation.read(model, resume, system, **chat)
    return Conversation(model, system, **chat)


def _resumed(talk: Conversation) -> str:
    """A line on what was said before."""
    questions = sum(message["role"] == "user" for message in talk.messages)
    return f"[{questions} questions before, {talk.n_held} tokens in context]" if questions else ""


def _edit_lines() -> None:
    with contextlib.suppress(ImportError):
        import readline  # editing and history of questions

        if os.environ.get("TERM", "dumb") != "dumb":
            readline.parse_and_bind("set enable-bracketed-paste on")  # pasted lines: one question


def _talk(talk: Conversation, sampling: dict[str, Any], resume: Path | None) -> None:
    """Questions and answers."""
    file = kept.Kept(talk, resume) if resume is not None else None
    while (line := _ask()) is not None:
        if line in ("/exit", "/quit"):
            break
        if line == "/reset":
            talk.reset()
        elif line == "/help":
            note(HELP)
        elif re.match(r"/\w+(\s|$)", line):
            note(f"[no command {escape_controls(line.split()[0])}: {HELP[1:]}")
        elif line:
            _answer(talk, line, sampling)
            if file:
                file.answered()
    if file:
        with waiting("keeping the talk"):
            file.end()


def _ask() -> str | None:
    """The next question; None at the end of input, or after Ctrl-C twice at a terminal."""
    is_terminal = sys.stdin.isatty()
    for is_last in (False, True):
        try:
            return _question("> " if is_terminal else "", ". " if is_terminal else "")
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


def _question(prompt: str, more: str) -> str:
    """A line, or all between one that begins and one that ends with three quotes."""
    text = input(prompt).strip()
    if not text.startswith(QUOTES):
        return text
    text = text[len(QUOTES) :]
    while not text.rstrip().endswith(QUOTES):
        text += "\n" + input(more)
    return text.rstrip()[: -len(QUOTES)].strip()


def _answer(talk: Conversation, question: str, sampling: dict[str, Any]) -> None:
    meter, shown, end = Meter(), Shown(lambda: talk.prompt_end), ""
    try:
        for part in meter.follow(talk.reply(question, **sampling, progress=meter.progress)):
            shown.write(part.text)
    except KeyboardInterrupt:
        end = ", stopped"
    except errors.SessionError as error:
        note(f"moeflux: {escape_controls(str(error))}; /reset starts over")
        return
    shown.end()
    note(f"[{meter.line()}{end}; {talk.n_held} in context]")
