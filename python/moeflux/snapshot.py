"""`Snapshot`: a session's state at some moment, in memory or in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _core, saved
from ._version import __version__
from .arguments import PATH, TEXT, Rule, check, optional, show, token_ids
from .errors import FormatError, SessionError
from .identity import Identity

if TYPE_CHECKING:
    from typing import Protocol

    class _Open(Protocol):
        """A `Model`, which knows sessions and so snapshots."""

        _native: _core.NativeModel
        _identity: Identity


RULES = {
    "model": Rule("a Model", lambda value: hasattr(value, "step_batch")),
    "path": PATH,
    "note": TEXT,
    "progress": optional(Rule("a function", callable)),
}


class Snapshot:
    """The state of a session: `Session.save` takes it, `Session.restore` goes back to it.

    Attributes:
        tokens: the ids that it holds, uint32 (position,), where a file said so; else None.
        note: the text that came with a file; else "".
    """

    def __init__(
        self,
        native: _core.NativeSnapshot,
        identity: Identity,
        tokens: NDArray[np.uint32] | None = None,
        note: str = "",
        routing: str | None = None,
    ) -> None:
        self._native, self._identity = native, identity
        self._routing = routing  # name of an override that took part; no file tells of it
        self.tokens, self.note = tokens, note

    def __repr__(self) -> str:
        return f"<Snapshot at {self.position}>"

    @property
    def position(self) -> int:
        """Tokens that it holds."""
        return self._native.position

    @property
    def nbytes(self) -> int:
        """Bytes of the budget that are its own; others may share full extents of the KV cache."""
        return self._native.nbytes

    @property
    def extents(self) -> dict[int, int]:
        """Bytes of each full extent of the KV cache, by a mark that is its own while it lives.

        Snapshots and sessions with the same mark hold the same memory.
        """
        return self._native.extents

    def write(
        self,
        path: str | os.PathLike[str],
        *,
        tokens: Iterable[int] | None = None,
        note: str = "",
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Writes it to a file that its owner alone can read.

        The file is whole or not there: one of that name is replaced when the new one is complete
        and on the disk. It has a checksum a MiB, and holds recurrent state and the KV cache of
        `position` tokens.

        Args:
            path: of the file.
            tokens: the ids that the snapshot holds, for whoever reads it; None takes `tokens`.
            note: any text, up to 64 MiB of UTF-8.
            progress: called with the bytes of the state that are written and their number, before
                each MiB. What it raises ends the writing, with nothing left of the file.

        Raises:
            SessionError: there are not `position` tokens, the model has no such token, an override
                of the routing took part, or the note is longer.
            IoError: the file cannot be written, or the model's files cannot be read.
            FormatError: the model's files are no longer what was loaded.

        Example:
            >>> model = load(memory="24MiB", context=512)
            >>> session, tokens = model.session(), [1, 2, 3]
            >>> _ = session.step(tokens)
            >>> session.save().write("talk.snapshot", tokens=tokens)
            >>> again, snapshot = model.session(), Snapshot.read(model, "talk.snapshot")
            >>> again.restore(snapshot)
            >>> bool((again.step([4]) == session.step([4])).all()), snapshot.tokens.tolist()
            (True, [1, 2, 3])
        """
        check("snapshot", SessionError, RULES, {"path": path, "note": note, "progress": progress})
        if self.position and self._routing not in (None, "native"):
            raise SessionError(f"[snapshot] expected a state of the model's own routing, found one "
                               f"of the override {show(self._routing)}")  # fmt: skip
        known = self.tokens if tokens is None else token_ids(tokens, "tokens", "snapshot")
        if known is not None and len(known) != self.position:
            raise SessionError(f"[snapshot] expected {self.position} tokens, found {len(known)}")
        native, total = self._native, self._native.model.snapshot_form(self.position)["nbytes"]

        def state(begin: int, to: memoryview) -> None:
            if progress is not None:
                progress(begin, total)
            native.read(begin, to)

        _write(Path(path), native.model, self._identity, self.position, known, note, state)

    @classmethod
    def read(
        cls,
        model: _Open,
        path: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> Snapshot:
        """Reads what `write` wrote. A session that is restored from it goes on bit for bit.

        Nothing is allocated before the file's header and size are found to be right for the model;
        the state is then booked in its budget, as other snapshots are.

        Args:
            model: the model that it was taken of: of the same weights, version of moeflux,
                precision, device and instruction set. The context may be another.
            path: of the file.
            progress: called with the bytes of the state that are read and their number, before
                each MiB is taken up. What it raises ends the reading, and the budget is free again.

        Returns:
            A Snapshot with `tokens` and `note`.

        Raises:
            IoError: the file cannot be read.
            FormatError: it is damaged, no snapshot's, or another model's.
            SessionError: it holds more tokens than the context.
            MemoryBudgetError: it finds no room.
        """
        check("snapshot", SessionError, RULES, {"model": model, "path": path, "progress": progress})
        with saved.opened(Path(path)) as file:
            form = fitting(model, file)
            tokens, note = file.tokens(), file.note()
            vocab = form["vocab"]
            if tokens is not None and tokens.max(initial=0) >= vocab:
                raise file.fail(f"expected token ids below {vocab}, found {tokens.max()}")
            draft = _core.NativeDraft(model._native, file.header.position)
            for begin, piece in file.state():
                if progress is not None:
                    progress(begin, form["nbytes"])
                draft.write(begin, piece)
            return cls(draft.done(), model._identity, tokens, note)


def write_note(model: _Open, path: Path, note: str) -> None:
    """Writes the file of a snapshot of no tokens, which takes no memory. Raises as `write`."""
    _write(path, model._native, model._identity, 0, None, note, lambda begin, to: None)


def read_note(model: _Open, path: Path, most: int) -> tuple[str, bool]:
    """The note of a file that a model of these weights has written, and whether `read` takes it.

    Raises:
        IoError, FormatError, SessionError: as `read`, and FormatError for a note of more than
            `most` bytes; not for a state that was computed otherwise, by another version or
            precision for example.
    """
    with saved.opened(path) as file:
        if file.header.note_bytes > most:
            raise file.fail(
                f"expected a note of at most {most} bytes, found {file.header.note_bytes}"
            )
        fits = True
        try:
            fitting(model, file)
        except FormatError:
            if file.header.model.get("weights") != model._identity.weights:
                raise
            fits = False
        file.tokens()
        return file.note(), fits


def _write(
    path: Path,
    model: _core.NativeModel,
    identity: Identity,
    position: int,
    tokens: NDArray[np.uint32] | None,
    note: str,
    state: Callable[[int, memoryview], None],
) -> None:
    data = note.encode()
    if len(data) > saved.MAX_NOTE_BYTES:
        raise SessionError(f"[snapshot] expected a note of at most {saved.MAX_NOTE_BYTES} "
                           f"bytes, found {len(data)}")  # fmt: skip
    form = model.snapshot_form(position)
    if tokens is not None and tokens.max(initial=0) >= form["vocab"]:
        raise SessionError(f"[snapshot] expected token ids below {form['vocab']}, found "
                           f"{tokens.max()}")  # fmt: skip
    header = saved.Header(
        model=fingerprint(model, identity, form),
        position=position,
        n_tokens=0 if tokens is None else len(tokens),
        note_bytes=len(data),
        state_bytes=form["nbytes"],
    )
    saved.write(path, header, tokens, data, state)


def fitting(model: _Open, file: saved.Reader) -> dict[str, Any]:
    """How the model lays out what a file holds, once that is found to be this model's.

    Raises:
        FormatError: it is another's.
        SessionError: it holds more tokens than the context.
    """
    header = file.header
    form = model._native.snapshot_form(header.position)
    own = fingerprint(model._native, model._identity, form)
    names = (*own, *(other for other in header.model if other not in own))
    differ = [name for name in names if own.get(name) != header.model.get(name)]
    if header.position > form["context"] and differ in ([], ["extent"]):
        raise SessionError(
            f"[snapshot] expected at most {form['context']} tokens, found {header.position}; "
            f"load with a larger context= ({file.path})"
        )
    for name in differ:
        raise file.fail(f"expected a snapshot of this model: {name} {show(own.get(name))}, found "
                        f"{show(header.model.get(name))}")  # fmt: skip
    if header.state_bytes != form["nbytes"]:
        raise file.fail(f"expected a state of {form['nbytes']} bytes, found {header.state_bytes}")
    return form


def fingerprint(
    model: _core.NativeModel, identity: Identity, form: dict[str, Any]
) -> dict[str, Any]:
    """What must be equal for a state to be another session's.

    Args:
        model: that computed it.
        identity: of its weights.
        form: `_core.NativeModel.snapshot_form` of so many tokens.
    """
    stats = model.stats()
    return {
        "weights": identity.weights,
        "moeflux": __version__,
        **{name: stats[name] for name in ("precision", "kv", "device", "simd")},
        "extent": form["extent"],
        "block": form["block"],
        "layers": [list(layer) for layer in form["layers"]],
    }
