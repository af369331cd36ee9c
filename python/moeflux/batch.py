"""A step of several sessions at once: `Model.step_batch`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from . import _core
from .arguments import check, listed, show
from .errors import SessionError
from .sampling import Choice, Sampler
from .session import Session
from .stepping import RULES, capture_names, stepped


def run(
    model: _core.NativeModel,
    batch: Iterable[tuple[Session, Iterable[int]]],
    all_logits: bool,
    capture: Iterable[str] | None,
    sample: Iterable[Sampler | None] | None,
) -> list[Any]:
    """Steps the sessions of a batch together; see `Model.step_batch`."""
    check("session", SessionError, RULES, {"all_logits": all_logits})
    names = capture_names(capture)
    if sample is not None and (all_logits or names):
        raise SessionError("[session] expected either `sample`, or `all_logits` and `capture`")
    pairs, sessions, items = "pairs of a session and token ids", [], []
    for pair in listed("session", SessionError, "batch", pairs, batch):
        if not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], Session):
            raise SessionError(f"[session] batch: expected {pairs}, found {show(pair)}")
        sessions.append(pair[0])
        items.append(pair[0]._item(pair[1]))
    if sample is not None:
        return _sampled(model, sessions, items, sample)
    found = stepped(model, sessions, items, "all" if all_logits else "last", names)
    for session, out in zip(sessions, found, strict=True):
        session._remember(out["logits"])
    return found if names else [out["logits"] for out in found]


def _sampled(
    model: _core.NativeModel,
    sessions: list[Session],
    items: list[Any],
    sample: Iterable[Sampler | None],
) -> list[Choice | None]:
    """A step of which no logits come out."""
    what = "a Sampler or None for each session"
    samplers = listed("session", SessionError, "sample", what, sample)
    fits = len(samplers) == len(items)
    if not fits or not all(one is None or isinstance(one, Sampler) for one in samplers):
        raise SessionError(f"[session] sample: expected {what}, found {show(samplers)}")
    wanted = [one if one is None else one._sample() for one in samplers]
    found = stepped(model, sessions, items, "none", [], None, wanted)
    for session in sessions:
        session._logits = None
    return [one if one is None else one._chosen(out)
            for one, out in zip(samplers, found, strict=True)]  # fmt: skip
