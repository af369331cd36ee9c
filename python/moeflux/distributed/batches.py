"""`MoefluxBatch`: answers rows of a table, for `map_batches` of Ray Data. It needs no Ray."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import TEXT, check, one_of, optional
from ..errors import FormatError
from ..model import load
from ..serve.app import create_app
from ..serve.batch import answers, rows
from ..serve.batch.leaders import Leaders
from ..serve.engine import EngineError
from ..serve.local import EngineSettings, LocalEngine
from ..serve.scheduler import MOST_RUNNING
from ..serve.settings import Settings
from .kept import Kept

FAILED = 500  # rows of such a status are not kept
COLUMNS = ("answer", "finish_reason", "prompt_tokens", "answer_tokens", "error")
KINDS = ("messages", "prompt")  # columns that are read: a talk, or a text to go on with
RULES = {
    "kind": one_of(KINDS),
    "chat_template": optional(TEXT),
    "reasoning": one_of(["auto", "off"]),
}
Table = Mapping[str, NDArray[Any]]


class MoefluxBatch:
    """Answers batches of rows with one model, which stays loaded between them.

    A row is a talk in the column "messages" (a list of {"role", "content"}, or its JSON), or a text
    in "prompt". A batch's prompts are sorted, so that what they share is computed once. A row that
    fails has a sentence in the column "error"; the others have None there.

    Args:
        model: as for `load`.
        kind: the column that is read, "messages" or "prompt".
        answered: a folder in which answers are kept. A run that was ended and begins again takes
            what is there. All processes must reach it, and keep it for one job and model.
        most: answers at once; None: as many as the engine finds good.
        chat_template: jinja source in place of the model's own, or None.
        reasoning: as for the server.
        fields: of each request, as for the server: max_tokens, temperature, seed, response_format.
        **options: of `load`: memory, context, threads, precision, device.

    Raises:
        FormatError: an argument breaks its rule.
        IoError: `answered` cannot be read or made.
        Whatever `load` raises.

    Example:
        >>> import ray
        >>> rows = ray.data.read_json("in.jsonl")
        >>> done = rows.map_batches(
        ...     MoefluxBatch, batch_size=64, concurrency=1,
        ...     fn_constructor_kwargs={"model": "demo-chat", "context": 512, "answered": "rows"},
        ... )
        >>> done.write_json("out")
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        kind: str = "messages",
        answered: str | os.PathLike[str] | None = None,
        most: int | None = None,
        chat_template: str | None = None,
        reasoning: str = "auto",
        fields: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        check("batch", FormatError, RULES, locals())
        self._kind, self._fields = kind, dict(fields or {})
        self._kept = Kept(answered)
        loaded = load(model, **options)
        engine = LocalEngine(loaded, "model", EngineSettings(most, max_queued=1 << 20))
        self._engine = engine
        self._leaders = Leaders(engine, most or MOST_RUNNING)
        self._app = create_app(
            {"model": self._leaders},
            Settings(max_body=2 * rows.MAX_LINE, chat_template=chat_template, reasoning=reasoning,
                     page=False),
        )  # fmt: skip
        settings = [engine.info.fingerprint, chat_template, reasoning, loaded.session().context]
        self._settings = json.dumps(settings).encode()
        self._loop = asyncio.new_event_loop()

    def __call__(self, batch: Table) -> dict[str, NDArray[Any]]:
        """The batch with columns of COLUMNS beside its own.

        Raises:
            FormatError: it has no column of the kind that is read.
            EngineError: the engine can do no more: another process is to try.
        """
        if self._kind not in batch:
            raise FormatError(f"[batch] expected a column {self._kind!r}, found "
                              f"{', '.join(batch)}")  # fmt: skip
        lines = [self._line(value) for value in batch[self._kind]]
        names = [hashlib.sha256(self._settings + line).hexdigest()[:24] for line in lines]
        found = self._loop.run_until_complete(self._answered(dict(zip(names, lines, strict=True))))
        told = [_told(found[name]) for name in names]
        columns = {column: np.array([row[i] for row in told], dtype=object)
                   for i, column in enumerate(COLUMNS)}  # fmt: skip
        return {**batch, **columns}

    def close(self) -> None:
        """Ends the engine."""
        self._engine.abort()
        self._loop.run_until_complete(self._leaders.drain(0))
        self._loop.close()

    def _line(self, value: Any) -> bytes:
        """A row as a line of OpenAI's batch files. Its id is made from what it asks."""
        value = value.tolist() if isinstance(value, np.ndarray) else value
        if self._kind == "messages" and isinstance(value, str):
            with contextlib.suppress(ValueError, RecursionError):  # the server says what is wrong
                value = json.loads(value)
        url = rows.URLS[KINDS.index(self._kind)]
        body = json.dumps({**self._fields, self._kind: value}, default=str, sort_keys=True)
        name = hashlib.sha256(body.encode()).hexdigest()
        return (f'{{"custom_id": "{name}", "method": "POST", "url": "{url}", '
                f'"body": {body}}}').encode()  # fmt: skip

    async def _answered(self, wanted: Mapping[str, bytes]) -> dict[str, Any]:
        found = {name: self._kept.get(name) for name in wanted}
        left = [name for name, answer in found.items() if answer is None]
        left.sort(key=lambda name: (rows.sort_key(wanted[name]), name))
        for name in left:
            self._leaders.expect(answers.request_id(name))
        new = await asyncio.gather(*(self._one(name, wanted[name]) for name in left))
        done = {name: said for name, (_, said) in zip(left, new, strict=True)}
        self._kept.add({name: said for name, (status, said) in zip(left, new, strict=True)
                        if status < FAILED})  # fmt: skip
        health = self._leaders.health()
        if health.state == "failed":
            raise EngineError(f"[batch] {health.detail}")
        return found | done

    async def _one(self, name: str, line: bytes) -> tuple[int, dict[str, Any]]:
        status, said = await answers.answer(self._app, line, name)
        self._leaders.arrived(answers.request_id(name))
        return status, said


def _told(said: Mapping[str, Any]) -> tuple[Any, ...]:
    """The columns of an answer."""
    if said["response"] is None:
        return None, None, None, None, said["error"]["message"]
    body = said["response"]["body"]
    if said["response"]["status_code"] != 200:
        return None, None, None, None, body["error"]["message"]
    choice, usage = body["choices"][0], body["usage"]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return (text, choice["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"],
            None)  # fmt: skip
