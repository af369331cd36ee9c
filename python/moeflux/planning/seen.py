"""What runs on this machine have shown, over processes: a file of the user's.

`bench` and `tune` note hit rates and speeds by model and share of experts; `plan` bends its curve
through them, and says a measured speed where there is one.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from .. import state
from .._version import __version__
from .curves import Curve

NAME = "measured.json"
MOST = 500  # runs that are kept
NEAR = 0.02  # of all experts: a run with so many more or fewer slots counts as the same
_STEPS = 40  # shares at which a curve is kept


@dataclass(frozen=True)
class How:
    """Of which model and settings a run was: what it holds for.

    Attributes:
        weights: `identity.of_weights`.
        machine: which it ran on, and with what version.
        device: that computed.
        precision: of its products.
        kv: type of the cache as it was asked for, or "".
        threads: that computed.
        read_ahead: whether experts were read on a guess.
    """

    weights: str
    machine: str
    device: str
    precision: str
    kv: str
    threads: int
    read_ahead: bool


@dataclass(frozen=True)
class Run(How):
    """What a run showed.

    Attributes:
        share: of all experts that had a slot. What a budget leaves for slots depends on the
            context; how fast they make it does not.
        hit_rate: of decode.
        tokens_per_second: of decode.
        tuned: it is the smallest share near the best speed that `tune` found.
    """

    share: float
    hit_rate: float
    tokens_per_second: float
    tuned: bool = False


def here() -> str:
    """This machine and version."""
    return " ".join((platform.node(), platform.machine(), str(os.cpu_count()), __version__))


def of(how: How) -> list[Run]:
    """The runs that hold for these settings, the last ones last."""
    return [run for run in _all() if _how(run) == asdict(how)]


def note(run: Run) -> None:
    """Remembers a run in the place of one of the same settings and slots."""

    def replaced(old: Run) -> bool:
        same = _how(old) == _how(run)
        return same and (abs(old.share - run.share) < NEAR / 2 or (run.tuned and old.tuned))

    runs = [old for old in _all() if not replaced(old)]
    state.write(NAME, [asdict(kept) for kept in [*runs, run][-MOST:]])


def near(runs: Sequence[Run], share: float) -> Run | None:
    """The last run with so many slots, or so near that it is the same."""
    return next((run for run in reversed(runs) if abs(run.share - share) <= NEAR), None)


def tuned_share(runs: Sequence[Run]) -> float | None:
    """The share that `tune` found."""
    return next((run.share for run in reversed(runs) if run.tuned), None)


def bent(base: Callable[[float], float], runs: Sequence[Run], size: tuple[int, int]) -> Curve:
    """A curve through what runs have shown; between them, `base` and what they differ from it by.

    Args:
        base: hit rate by share, without these runs.
        runs: at least one.
        size: experts of a layer, and those that a token uses.
    """
    differs = {run.share: run.hit_rate - base(run.share) for run in runs if 0 < run.share < 1}
    ends = {0.0: 0.0, **differs, 1.0: 0.0}
    known = sorted(ends)
    points, highest = [], 0.0
    for share in sorted({i / _STEPS for i in range(1, _STEPS)} | differs.keys()):
        high = next(at for at in known if at >= share)
        low = max((at for at in known if at < high), default=high)
        part = (share - low) / (high - low)
        rate = base(share) + ends[low] + (ends[high] - ends[low]) * part
        highest = max(highest, min(rate, 1.0))
        points.append((share, highest))
    return Curve("this model", *size, tuple(points))


def _how(run: Run) -> dict[str, Any]:
    return {field.name: getattr(run, field.name) for field in fields(How)}


def _all() -> list[Run]:
    """What the file says; what is no run is left out."""
    return [Run(**said) for said in state.read(NAME) if isinstance(said, dict) and _is_run(said)]


def _is_run(said: dict[str, Any]) -> bool:
    kinds: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool}
    if set(said) != {field.name for field in fields(Run)}:
        return False
    typed = all(isinstance(said[field.name], kinds[str(field.type)]) for field in fields(Run))
    return (
        typed
        and all(0 <= said[name] <= 1 for name in ("share", "hit_rate"))
        and 0 < said["tokens_per_second"] < math.inf
    )
