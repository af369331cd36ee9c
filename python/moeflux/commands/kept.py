"""The file of `moeflux chat --resume`: messages after each answer, what was computed at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .. import errors, saved
from ..durable import held_alone
from ..terminal import escape_controls, note

if TYPE_CHECKING:
    from ..conversation import Conversation


def refuse(path: Path) -> None:
    """Refuses a file that is none of a talk, or a place that takes none, before a model is loaded.

    Raises:
        FormatError, IoError: it is.
    """
    folder = Path(os.path.realpath(path)).parent  # the file is replaced, not written to
    own = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK, effective_ids=own) or not folder.is_dir():
        raise errors.IoError(f"[chat] --resume: expected a folder to write to ({folder})")
    if path.exists():
        with saved.opened(path):
            pass


@contextlib.contextmanager
def alone(path: Path | None) -> Iterator[None]:
    """No other chat keeps its talk in this file, if there is one, during the block.

    Raises:
        IoError: another one does.
    """
    with contextlib.ExitStack() as stack:
        try:
            if path is not None:
                stack.enter_context(held_alone(path))
        except BlockingIOError:
            raise errors.IoError("[chat] --resume: expected a talk that no other chat holds, "
                                 f"found one in use ({path})") from None  # fmt: skip
        except OSError as error:
            raise errors.IoError(
                f"[chat] --resume: cannot lock: {error.strerror} ({path})"
            ) from error
        yield


class Kept:
    """A talk and its file. What cannot be written is told, and tried again at the next answer.

    Args:
        talk: as the file has it, or a new one.
        path: of the file.
    """

    def __init__(self, talk: Conversation, path: Path) -> None:
        from ..conversation import state_beside

        self._talk, self._path = talk, path
        self._beside = state_beside(path)
        self._messages = list(talk.messages)  # as the file has them
        self._is_new = False  # something was answered

    def answered(self) -> None:
        """Keeps the messages. A state that the file has is put beside it.

        A talk that was reset, and has no answer yet, leaves the file as it is.
        """
        if self._talk.messages != self._messages and self._has_answer():
            self._is_new = True
            with self._told():
                self._write(state=False)

    def end(self) -> None:
        """Keeps what was computed, too.

        Raises:
            IoError, FormatError, SessionError: not even the messages can be written.
        """
        if not self._is_new or not self._has_answer():
            return
        with self._told():
            self._write(state=True)
        if self._talk.messages != self._messages:
            self._write(state=False)

    def _write(self, *, state: bool) -> None:
        if not state and self._has_state():
            with contextlib.suppress(OSError):  # without hard links the state is given up
                self._beside.unlink(missing_ok=True)
                os.link(os.path.realpath(self._path), self._beside)
        self._talk.write(self._path, state=state)
        self._messages = list(self._talk.messages)
        if state and self._has_state():
            with contextlib.suppress(OSError):
                self._beside.unlink()

    def _has_answer(self) -> bool:
        return any(message["role"] == "assistant" for message in self._talk.messages)

    def _has_state(self) -> bool:
        with (
            contextlib.suppress(errors.IoError, errors.FormatError),
            saved.opened(self._path) as file,
        ):
            return file.header.state_bytes > 0
        return False

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (errors.IoError, errors.FormatError, errors.SessionError) as error:
            note(f"moeflux: {escape_controls(str(error))}; the talk goes on")
