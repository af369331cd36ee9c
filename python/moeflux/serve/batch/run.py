"""Runs the rows of a batch: many at once, those that begin alike one after the other."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ... import files
from ...errors import FormatError
from ..app import create_app
from ..engine import Engine, EngineError
from ..local import LocalEngine
from ..scheduler import MOST_RUNNING
from ..settings import Settings
from . import answers
from .journal import FAILED, Journal
from .leaders import Leaders
from .rows import MAX_LINE, Input, Row, read

AT_ONCE = 2 * MOST_RUNNING  # rows: those that run, and those that are sorted meanwhile
MAX_BYTES = 16 << 20  # of their lines
BAD_ROWS = 32  # in a row: not theirs is the fault
Report = Callable[[int, int], None]  # is told the status and the tokens of a row


def row_id(settings: Mapping[str, Any], row: Row) -> str:
    """What ids of a row's answer are made from: what the row asks, and of whom."""
    said = json.dumps(settings, sort_keys=True).encode()
    return hashlib.sha256(said + b"\n" + row.digest).hexdigest()[:24]


class Batch:
    """The rows that have no answer yet, on their way.

    Args:
        source: of the rows.
        journal: that takes their answers.
        settings: what the answers depend on besides the rows.
        report: is told of each answer.
    """

    def __init__(
        self, source: Input, journal: Journal, settings: Mapping[str, Any], report: Report
    ) -> None:
        self._source, self._journal = source, journal
        self._settings, self._report = settings, report
        self._bad = 0  # rows, since the last good one
        self._nbytes = 0  # of the lines that are on their way

    def run(
        self, engine: Engine, most: int | None, chat_template: str | None, reasoning: str
    ) -> None:
        """Answers all rows. Whatever ends it before, what was answered is in the journal.

        Args:
            engine: that nobody else uses; it is ended.
            most: jobs that it has at once; None: as many as it finds good.
            chat_template: see `Settings`.
            reasoning: see `Settings`.

        Raises:
            EngineError: the engine can do no more, or fails at every row.
            FormatError: the input was changed meanwhile.
            OSError: the journal takes no more.
        """
        settings = Settings(max_body=2 * MAX_LINE, chat_template=chat_template,
                            reasoning=reasoning, page=False)  # fmt: skip
        asyncio.run(self._run(engine, most or MOST_RUNNING, settings))

    async def _run(self, engine: Engine, most: int, settings: Settings) -> None:
        leaders = Leaders(engine, most)
        app = create_app({engine.info.name: leaders}, settings)
        left = [row for row in self._source.rows if not self._journal.has(row.index)]
        left.sort(key=lambda row: (row.key, row.index))
        try:
            with files.regular_file(self._source.path) as (stream, _):
                await self._all(app, leaders, ((row, read(stream, row)) for row in left))
        finally:
            if isinstance(engine, LocalEngine):
                engine.abort()  # after an interrupt nobody waits for the step in progress
            await engine.drain(0)

    async def _all(
        self, app: Any, engine: Leaders, lines: Iterable[tuple[Row, bytes | None]]
    ) -> None:
        tasks: set[asyncio.Task[None]] = set()
        try:
            for row, line in lines:
                name = row_id(self._settings, row)
                engine.expect(answers.request_id(name))
                self._nbytes += len(line or b"")
                tasks.add(asyncio.ensure_future(self._one(app, engine, name, row.index, line)))
                while len(tasks) >= AT_ONCE or (tasks and self._nbytes > MAX_BYTES):
                    tasks = await _some(tasks)
            while tasks:
                tasks = await _some(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(
        self, app: Any, engine: Leaders, name: str, index: int, line: bytes | None
    ) -> None:
        status, said = await answers.answer(app, line, name)
        engine.arrived(answers.request_id(name))
        self._nbytes -= len(line or b"")
        is_bad = status >= FAILED
        health = engine.health()
        self._bad = self._bad + 1 if is_bad else 0
        if is_bad and health.state != "ok" and (health.state == "failed" or self._bad >= BAD_ROWS):
            raise EngineError(f"[batch] {health.detail}; the same command goes on from here")
        self._journal.add(index, status, json.dumps(said).encode())
        usage = (said["response"] or {}).get("body", {}).get("usage") or {}
        self._report(status, usage.get("completion_tokens", 0))


async def _some(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Waits for one of them at least, and gives the others. Raises what one has raised."""
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return left


def check_fingerprint(journal: Journal, found: str) -> None:
    """Raises FormatError where an earlier run's rows are of another model or precision."""
    said = journal.said.get("fingerprint")
    if said != found:
        raise FormatError(f"[batch] rows of an earlier run are of another model: expected "
                          f"{said}, found {found} ({journal.path})")  # fmt: skip
