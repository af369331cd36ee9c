"""`moeflux batch`: many requests from a file, OpenAI's batches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import errors
from ..terminal import escape_controls, note
from . import options, progress
from .meter import waiting
from .serve import named_as, require_extra, running, template

if TYPE_CHECKING:
    from ..serve.batch.journal import Journal
    from ..serve.batch.rows import Input


def batch(
    source: Annotated[Path, typer.Argument(help="Requests, one a line, in OpenAI's batch format.")],
    target: Annotated[Path, typer.Argument(help="Their answers, in the same order.")],
    model: options.Model = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    memory: options.Memory = "auto",
    context: options.Context = options.CONTEXT,
    device: options.Device = "cpu",
    precision: options.Precision = "float32",
    kv: options.Kv = None,
    threads: options.Threads = None,
    max_running: Annotated[
        str, typer.Option(help="Answers at once; auto: as many as keep a token a second each.")
    ] = "auto",
    chat_template: options.ChatTemplate = None,
    reasoning: options.Reasoning = "auto",
    verbose: options.Verbose = False,
) -> None:
    """Answer many requests from a file: OpenAI's batches, for this machine alone.

    The same command again goes on where it stopped, whatever stopped it, and ends with the same
    bytes. A request that fails is a row of its own. Prompts that begin alike are computed once.
    """
    require_extra()
    most, jinja = running(max_running), template(chat_template)
    asked = {
        "model": model, "revision": revision, "context": context, "device": device,
        "precision": precision, "chat_template": jinja, "reasoning": reasoning,
    }  # fmt: skip
    asked |= {} if kv is None else {"kv": kv}  # without it, ids are those of earlier versions
    load = {
        "memory": memory, "context": context, "device": device, "precision": precision,
        "kv": kv, "threads": threads, "revision": revision, "offline": offline,
    }  # fmt: skip
    with _writing(source, target):
        try:
            _run(source, target, model, asked, load, most)
        except KeyboardInterrupt:
            print("[interrupted: the same command goes on from here]", file=sys.stderr)
            raise


@contextlib.contextmanager
def _writing(source: Path, target: Path) -> Iterator[None]:
    """No other batch writes this output during the block."""
    from ..durable import held_alone
    from ..serve.batch.journal import refuse_target

    refuse_target(source, target)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held_alone(target))
        except BlockingIOError:
            raise errors.IoError("[batch] expected no other batch with this output, found one at "
                                 f"work ({target})") from None  # fmt: skip
        yield


def _run(
    source: Path, target: Path, model: str | None, asked: dict[str, Any], load: dict[str, Any],
    most: int | None,
) -> None:  # fmt: skip
    from ..serve.batch.journal import Journal, beside, is_of
    from ..serve.batch.rows import scan
    from ..serve.batch.run import row_id

    with waiting("reading the requests"):
        found = scan(source)
    ids = [f"batch_req_{row_id(asked, row)}" for row in found.rows]
    if target.exists() and not is_of(target, ids):
        raise errors.FormatError("[batch] expected a new file for the output, or the one of this "
                                 f"batch, found another ({target})")  # fmt: skip
    journal = Journal.find(beside(target), {**asked, "input": found.digest})
    if journal is None and target.exists():
        note(f"[all {len(found.rows)} rows are answered already]")
        return
    try:
        if journal is None or not all(journal.has(row.index) for row in found.rows):
            journal = _answer(found, journal, beside(target), model, asked, load, most)
        failed = journal.failed
        journal.publish(target, len(found.rows))
    finally:
        if journal is not None:
            journal.close()
    note(escape_controls(f"[{target}: {len(found.rows)} rows, {failed} with an error]"))


def _answer(
    found: Input, journal: Journal | None, path: Path, model: str | None, asked: dict[str, Any],
    load: dict[str, Any], most: int | None,
) -> Journal:  # fmt: skip
    """Loads the model and answers what has no answer. The caller closes the journal."""
    from .. import model as models
    from ..serve.batch.journal import Journal
    from ..serve.batch.run import Batch, check_fingerprint
    from ..serve.local import EngineSettings, LocalEngine

    with waiting("loading"):
        loaded = models.load(model, **load)
        settings = EngineSettings(max_running=most, max_queued=1 << 20)
        engine = LocalEngine(loaded, named_as(model, loaded), settings)
    said = {**asked, "input": found.digest, "fingerprint": engine.info.fingerprint}
    if journal is None:
        journal = Journal.create(path, said)
    try:
        check_fingerprint(journal, engine.info.fingerprint)
        done = sum(journal.has(row.index) for row in found.rows)
        with progress.rows(len(found.rows), done) as report:
            run = Batch(found, journal, asked, report)
            run.run(engine, most, asked["chat_template"], asked["reasoning"])
    except BaseException:
        journal.close()
        raise
    return journal
