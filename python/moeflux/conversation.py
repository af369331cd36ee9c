"""`Conversation`: a chat with one model. Knows messages; the session holds their tokens.

A turn feeds only what the session does not hold yet. Where the template rewrites the past (many
drop an earlier answer's thinking) or text does not tokenize back to the ids that were generated,
it goes back as far as it must. Recurrent state cannot be cut: with it, that is to the snapshot
before the last answer, or to the start.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import FLAG, PATH, TEXT, check, instance, optional, show
from .errors import FormatError, IoError, MemoryBudgetError, SessionError
from .generation import Part
from .model import Model
from .session import Session
from .snapshot import Snapshot, read_note, write_note
from .stream import GenerateOptions, Watch, stream_generate
from .templates import ChatOptions, check_options
from .thinking import parted

if TYPE_CHECKING:
    from typing_extensions import Unpack

MAX_TALK_BYTES = 4 << 20  # of its messages as JSON; read, they may take 25 times as much
RULES = {
    "model": instance("a Model", Model),
    "system": optional(TEXT),
    "text": TEXT,
    "path": PATH,
    "state": FLAG,
}


class Conversation:
    """A chat: `reply` appends a question and streams its answer.

    Args:
        model: one with a chat template.
        system: the system message, or None.
        chat: what the template is given beside the messages; see `ChatOptions`.

    Example:
        >>> talk = Conversation(model)
        >>> for part in talk.reply("What is a slot?", max_tokens=64):
        ...     print(part.text, end="")
    """

    def __init__(
        self, model: Model, system: str | None = None, **chat: Unpack[ChatOptions]
    ) -> None:
        check("chat", SessionError, RULES, locals())
        check_options(chat, "Conversation")
        self._chat = chat
        self._model = model
        self._system = system
        self._session = model.session()
        self.reset()

    def reset(self) -> None:
        """Forgets all but the system message."""
        self.prompt_end = ""  # as the template wrote it last: it may begin the answer's thoughts
        self.messages: list[dict[str, str]] = (
            [] if self._system is None else [{"role": "system", "content": self._system}]
        )
        self._held: list[int] = []  # what the session holds begins so, and ends here but for errors
        self._snapshot: Snapshot | None = None  # before the last answer
        self._snapshot_held: list[int] = []  # the tokens that it holds
        self._session.reset()

    def write(self, path: str | os.PathLike[str], *, state: bool = True) -> None:
        """Keeps the talk in a file, as `Snapshot.write` does: whole or not at all.

        Args:
            path: of the file.
            state: also what was computed of it. Without, or where memory is too little for a
                snapshot, the file is small, and whoever reads it computes the talk again.

        Raises:
            SessionError: the messages are longer than 4 MiB.
            IoError: the file cannot be written.
        """
        check("chat", SessionError, RULES, {"path": path, "state": state})
        note = json.dumps({"talk": self.messages, "system": self._system})
        if len(note) > MAX_TALK_BYTES:
            raise SessionError(f"[chat] expected messages of at most {MAX_TALK_BYTES} bytes, found "
                               f"{len(note)}")  # fmt: skip
        snapshot = self._state() if state else None
        if snapshot is None:
            write_note(self._model, Path(path), note)
        else:
            snapshot.write(path, tokens=self._held[: snapshot.position], note=note)

    @classmethod
    def read(
        cls,
        model: Model,
        path: str | os.PathLike[str],
        system: str | None = None,
        **chat: Unpack[ChatOptions],
    ) -> Conversation:
        """Goes on with a talk that `write` has kept.

        A state that `moeflux chat --resume` left beside the file is taken where the file has none.
        What another version, precision, device or instruction set computed is computed again at the
        next question; so is what finds no memory.

        Args:
            model: of the same weights.
            path: of the file.
            system: None, or the talk's own system message.
            chat: as for a new one.

        Raises:
            IoError: the file cannot be read.
            FormatError: it is damaged, no talk's, or another model's.
            SessionError: the talk has another system message, or is longer than the context.
        """
        check("chat", SessionError, RULES, locals())
        note, fits = read_note(model, Path(path), MAX_TALK_BYTES)
        messages, own = _talk(note, Path(path))
        if system is not None and system != own:
            raise SessionError(f"[chat] system: expected {show(own)}, as the talk has it, found "
                               f"{show(system)} ({path})")  # fmt: skip
        talk = cls(model, own, **chat)
        talk.messages = messages
        if fits:
            with contextlib.suppress(MemoryBudgetError):
                talk._restore(Snapshot.read(model, path))
        if not talk._held:  # of a talk that went on and was not ended
            beside = state_beside(Path(path))
            with contextlib.suppress(MemoryBudgetError, FormatError, IoError, SessionError):
                if read_note(model, beside, MAX_TALK_BYTES)[1]:
                    talk._restore(Snapshot.read(model, beside))
        return talk

    def _restore(self, snapshot: Snapshot) -> None:
        if snapshot.tokens is None:
            return
        self._session.restore(snapshot)
        self._held = snapshot.tokens.tolist()
        if not self._session.truncatable:
            self._snapshot_held, self._snapshot = list(self._held), snapshot

    def _state(self) -> Snapshot | None:
        """What is worth keeping: where recurrent state can be gone back to, else all of it."""
        snapshot, held = self._snapshot, self._snapshot_held
        if snapshot is None and self._held and self._session.position == len(self._held):
            with contextlib.suppress(MemoryBudgetError):
                snapshot, held = self._session.save(), self._held
        known = snapshot is not None and len(held) == snapshot.position
        return snapshot if known and self._held[: len(held)] == held else None

    @property
    def n_held(self) -> int:
        """Tokens held, of `context`."""
        return len(self._held)

    def reply(
        self,
        text: str,
        *,
        progress: Callable[[int, int], object] | None = None,
        cancel: Callable[[], bool] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Iterator[Part]:
        """Asks, and yields the answer's parts. Options as for `stream_generate`.

        `progress` counts the tokens that the session does not hold yet.

        An answer that is cut short (Ctrl-C, or the caller stops iterating) stays in the history
        as far as it went; a question that got no answer is taken back.

        Raises:
            SessionError: the conversation has outgrown the context; `reset` it.
            TemplateError: the model has no chat template.
        """
        check("chat", SessionError, RULES, {"text": text})
        question = {"role": "user", "content": text}
        ids = self._model.tokenizer.encode_chat([*self.messages, question], **self._chat)
        if not ids or len(ids) > self._session.context:
            raise SessionError(
                f"[chat] the conversation takes {len(ids)} tokens of a context of "
                f"{self._session.context}; start over, or load with a larger context="
            )
        self.prompt_end = self._model.tokenizer.decode(ids[-16:], skip_special_tokens=False)
        tokens: list[int] = []
        answer: list[str] = []
        rest = self._go_back(ids)
        try:
            if not self._feed(ids, rest, Watch(self._model, progress, cancel)):
                yield Part("", finish_reason="cancelled")
                return
            for part in stream_generate(self._model, ids[-1:], session=self._session,
                                        history=ids[:-1], cancel=cancel, **options):  # fmt: skip
                if part.token is not None:
                    tokens.append(part.token)
                if tokens or part.finish_reason != "cancelled":
                    answer.append(part.text)
                yield part
        finally:
            self._held = (ids + tokens)[: self._session.position]  # less where feeding ended early
            if answer:
                self.messages += [question, {"role": "assistant", "content": self._said(answer)}]

    def _said(self, answer: list[str]) -> str:
        """What the next turn's template is given: of channels, the last one's text alone."""
        text = "".join(answer)
        return parted(text, self.prompt_end)[1] if self._model.tokenizer.shown else text

    def _go_back(self, ids: list[int]) -> list[int]:
        """Brings the session to hold a beginning of ids[:-1]; the rest of them is to be fed.

        Whatever stops it, the session holds a beginning of what it held before.
        """
        try:
            return rewind(self._session, self._held, self._snapshot, ids[:-1])
        finally:
            self._held = self._held[: self._session.position]

    def _feed(self, ids: list[int], rest: list[int], watch: Watch) -> bool:
        """Feeds the rest of ids[:-1], and remembers the state after it.

        False: it was cancelled on the way.
        """
        self._snapshot = None  # its memory first, then the new one's
        session, model = self._session, self._model
        for piece in watch.pieces(session.position, rest):
            session.step(piece)
        with contextlib.suppress(MemoryBudgetError):  # then the next turn may start over
            self._snapshot_held = ids[: session.position]
            self._snapshot = None if session.truncatable else session.save()
            if model.free_bytes < session.bytes(session.context) - session.bytes(session.position):
                self._snapshot = None  # the answer may need that room
        return session.position == len(ids) - 1


def rewind(
    session: Session, held: list[int], snapshot: Snapshot | None, wanted: list[int]
) -> list[int]:
    """Brings a session to hold a beginning of `wanted`, the longest that it can go back to.

    Args:
        session: to go on from as it is, from `snapshot`, or from nothing.
        held: the tokens that it holds. At another position it holds what nobody knows: it starts
            over.
        snapshot: of it, after some of them; None where there is none.
        wanted: the tokens that it shall hold.

    Returns:
        The rest of `wanted`: what is left to step.
    """
    if session.position != len(held):
        session.reset()
    elif wanted[: len(held)] != held:
        known = snapshot.position if snapshot is not None else 0
        pairs = zip(held, wanted, strict=False)
        common = next((i for i, (a, b) in enumerate(pairs) if a != b), len(wanted))
        if common >= session.truncatable_to:
            session.truncate(common)
        elif snapshot is not None and wanted[:known] == held[:known]:
            session.restore(snapshot)
        else:
            session.reset()
    return wanted[session.position :]


def state_beside(path: Path) -> Path:
    """Where a state of before stays while the file has messages alone."""
    path = Path(os.path.realpath(path))
    return path.with_name(f".{path.name}.state")


def _talk(note: str, path: Path) -> tuple[list[dict[str, str]], str | None]:
    """Messages and system message of a file's note. Raises FormatError."""
    try:
        said: Any = json.loads(note)
        messages, system = said["talk"], said["system"]
        texts = [message[key] for message in messages for key in ("role", "content")]
        good = all(map(TEXT.fits, texts)) and (system is None or TEXT.fits(system))
    except (ValueError, TypeError, KeyError, RecursionError):
        good = False
    if not good:
        raise FormatError(f"[chat] expected the file of a talk, found another snapshot's ({path})")
    return [{"role": m["role"], "content": m["content"]} for m in messages], system
