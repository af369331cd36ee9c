"""`Routing`: other experts than the router would choose, for people who study routing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .arguments import check, integer, is_integer, optional, show
from .errors import SessionError

ByLayer = Mapping[int, Iterable[int]] | Iterable[int]


@dataclass(frozen=True, eq=False)
class Routing:
    """An override of the router's choice. Off unless given; `stats` and `Session.stats` name it.

    Attributes:
        mask: experts that are never chosen, as if they did not exist: ids for every MoE layer, or
            {layer: ids}. Layers count from 0, dense ones among them.
        force: experts that are chosen whatever the router says, with the weights that its
            probabilities give them: {layer: ids}, the same for every token; or an integer array
            (tokens, layers, top_k), one row a token, where a place of all -1 is left to the router.
            Captured "experts" are such an array, so a recorded run can be replayed, bit for bit.
            Tokens behind the array are the router's.
        top_k: experts a token, instead of the model's number.

    Example:
        >>> model = load(memory="24MiB", context=512)
        >>> session = model.session(routing=Routing(mask={1: [0, 3]}, top_k=2))
        >>> session.step([1, 2, 3], capture={"experts"})["experts"].shape
        (3, 8, 2)
    """

    mask: ByLayer = ()
    force: Mapping[int, Iterable[int]] | NDArray[Any] | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", _kept(self.mask, "mask"))
        if self.force is not None and not isinstance(self.force, np.ndarray):
            object.__setattr__(self, "force", _kept(self.force, "force"))

    @property
    def name(self) -> str:
        """What it changes, in one line; "native" when nothing."""
        parts = []
        if self.top_k is not None:
            parts.append(f"top_k={self.top_k}")
        if masked := _describe(self.mask):
            parts.append(f"mask={masked}")
        if self.force is not None:
            parts.append(f"force={_describe(self.force)}")
        return " ".join(parts) or "native"


def _kept(experts: Any, what: str) -> Any:
    """Iterables of the caller's, read once."""
    try:
        if isinstance(experts, Mapping):
            return {layer: tuple(ids) for layer, ids in experts.items()}
        return tuple(experts)
    except TypeError:
        raise SessionError(
            f"[routing] {what}: expected expert ids, found {show(experts)}"
        ) from None


def _describe(experts: Any) -> str:
    if isinstance(experts, np.ndarray):
        return f"array{experts.shape}".replace(" ", "")
    if isinstance(experts, Mapping):
        return f"{sum(map(len, experts.values()))} experts of {len(experts)} layers"
    return f"{len(experts)} experts of every layer" if experts else ""


def _ids(experts: tuple[Any, ...], width: int, where: str) -> list[int]:
    for expert in experts:
        if not is_integer(expert) or not 0 <= expert < width:
            raise SessionError(f"[routing] {where}: expected experts of 0..{width - 1}, "
                               f"found {show(expert)}")  # fmt: skip
    return [int(expert) for expert in experts]


def _by_layer(experts: Any, layers: list[tuple[int, int]], what: str) -> dict[int, list[int]]:
    moe = [index for index, (width, _) in enumerate(layers) if width]
    if not isinstance(experts, Mapping):
        experts = {layer: experts for layer in moe if experts}
    found = {}
    for layer, ids in experts.items():
        if not is_integer(layer) or layer not in moe:
            raise SessionError(f"[routing] {what}: expected MoE layers {moe[:1]}..{moe[-1:]}, "
                               f"found {show(layer)}")  # fmt: skip
        found[int(layer)] = _ids(ids, layers[layer][0], f"{what} of layer {layer}")
    return found


def compile_routing(
    model: _core.NativeModel, routing: Routing | None, *, and_session: bool = False
) -> Any:
    """The native form, checked against the model; None for None.

    Raises:
        SessionError: what the model does not have, or what leaves a token without experts.
        MemoryBudgetError: no room for it or, with `and_session`, for a new session beside it.
    """
    if routing is None:
        return None
    if not isinstance(routing, Routing):
        raise SessionError(f"[routing] routing: expected a Routing, found {show(routing)}")
    layers = model.experts()
    width = max((experts for experts, _ in layers), default=0)
    top_k = routing.top_k
    check("routing", SessionError, {"top_k": optional(integer(1, width))}, {"top_k": top_k})
    k = top_k or max((own for _, own in layers), default=0)

    mask = None
    if masked := _by_layer(routing.mask, layers, "mask"):
        mask = np.zeros((len(layers), width), np.uint8)
        for layer, ids in masked.items():
            mask[layer, ids] = 1

    forced, repeat = None, False
    if isinstance(routing.force, Mapping):
        repeat = True
        forced = np.full((1, len(layers), k), -1, np.int32)
        for layer, ids in _by_layer(routing.force, layers, "force").items():
            if len(ids) != k:
                raise SessionError(f"[routing] force of layer {layer}: expected {k} experts, "
                                   f"found {len(ids)}")  # fmt: skip
            forced[0, layer] = ids
    elif isinstance(routing.force, tuple):
        raise SessionError("[routing] force: expected {layer: experts} or an array, found a list")
    elif routing.force is not None:
        given = np.asarray(routing.force)
        if not np.issubdtype(given.dtype, np.integer) or given.shape[1:] != (len(layers), k):
            raise SessionError(f"[routing] force: expected integers (tokens, {len(layers)}, {k}), "
                               f"found {given.dtype} {given.shape}")  # fmt: skip
        if given.size and not (given.min() >= -1 and given.max() < width):
            raise SessionError(f"[routing] force: expected experts of -1..{width - 1}, found "
                               f"{given.min()}..{given.max()}")  # fmt: skip
        forced = given.astype(np.int32)
    return model.routing(top_k or 0, mask, forced, repeat, routing.name, and_session)
