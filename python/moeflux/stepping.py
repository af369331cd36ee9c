"""What steps of one session and of a batch share: rules, and the way to the engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from . import _core, elastic
from .arguments import FLAG, instance, integer, listed, optional, show
from .errors import MoefluxError, SessionError
from .routing import Routing
from .snapshot import Snapshot

CAPTURES = ("router", "experts", "hidden")
RULES = {
    "all_logits": FLAG,
    "greedy": FLAG,
    "routing": optional(instance("a Routing", Routing)),
    "snapshot": instance("a Snapshot", Snapshot),
    "top": optional(integer(0)),
    "following": optional(integer(0, 2**32 - 1)),
}


def capture_names(capture: Iterable[str] | None) -> list[str]:
    """The checked names of what to capture. Raises SessionError."""
    if capture is None or isinstance(capture, str):
        capture = () if capture is None else (capture,)
    found = listed("session", SessionError, "capture", f"any of {CAPTURES}", capture)
    for name in found:
        if not isinstance(name, str) or name not in CAPTURES:
            raise SessionError(f"[session] capture: expected any of {CAPTURES}, found {show(name)}")
    return sorted(set(found))


def stepped(
    model: _core.NativeModel, sessions: list[Any], items: list[Any], *how: Any
) -> list[dict[str, Any]]:
    """A step of the engine over items of these sessions (`_core.NativeModel.step_batch`)."""
    with blaming(sessions):
        found, counts = elastic.step(model, lambda: model.step_batch(items, *how))
    for session in sessions:
        session._last_step = counts
    return found


@contextlib.contextmanager
def blaming(sessions: list[Any]) -> Iterator[None]:
    """An error of a step of these sessions tells the one that it is about."""
    try:
        yield
    except MoefluxError as error:
        error._blame(sessions)
        raise
