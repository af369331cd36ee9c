"""config.json: fields checked as they are read, and those that the engine has one way for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ..arguments import show
from ..checkpoint import Checkpoint, fail

# No real field comes near these. They keep products far from overflow, and what a config alone can
# make Python allocate small: there is a list item for each of the things that MAX_EACH bounds.
MAX_COUNT = 1 << 24
MAX_EACH = 1 << 12  # layers; heads or experts of a layer
MAX_HEAD_DIM = 1 << 16
MAX_FLOAT32 = 3.4e38

# Methods of quantisation whose codes lie transposed: what `convert` makes of them runs.
CONVERTED = ("awq", "gptq")

OneWay = dict[str, tuple[Any, ...]]
# Fields of transformers' configs, and the values that mean what the engine does.
ONE_WAY: OneWay = {
    "hidden_act": ("silu", "swish"),
    "use_sliding_window": (False,),
}


def way_out(method: Any) -> str:
    """The end of the sentence that refuses a method of quantisation."""
    return "; `moeflux convert` reads it" if method in CONVERTED else ""


class Config:
    """Checked access to config.json, or to a `values` part of it."""

    def __init__(self, checkpoint: Checkpoint, values: dict[str, Any] | None = None) -> None:
        self.values = checkpoint.config if values is None else values
        self.path = checkpoint.config_file

    def with_values(self, values: dict[str, Any]) -> Config:
        """The config with other values in their places."""
        other = copy.copy(self)
        other.values = self.values | values
        return other

    def bad(self, what: str) -> Exception:
        """Builds a FormatError that names the file of the config."""
        return fail("config", what, self.path)

    def require(self, fields: OneWay) -> None:
        """Refuses a config that asks for what the engine does not do; absent fields are right."""
        for key, accepted in fields.items():
            value = self.values.get(key)
            if value is not None and value not in accepted:
                expected = f"{key} {' or '.join(map(repr, accepted))}" if accepted else f"no {key}"
                raise self.bad(f"expected {expected}, found {show(value)}: no other is done")

    @property
    def rotation(self) -> dict[str, Any]:
        """Settings of the rotation, in whichever dialect; empty when absent."""
        return self.section("rope_scaling") or self.section("rope_parameters")

    def need(self, *fields: str) -> None:
        """Refuses a config without fields whose absence means another number in each family."""
        for key in fields:
            if self.values.get(key) is None and self.rotation.get(key) is None:
                raise self.bad(f"expected {key}, found none: families differ in what that means")

    def count(
        self, key: str, default: int | None = None, minimum: int = 1, most: int = MAX_COUNT,
        inside: dict[str, Any] | None = None,
    ) -> int:  # fmt: skip
        """A whole number in `minimum`..`most`, from the top level or from `inside` a section."""
        value = (self.values if inside is None else inside).get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.bad(f"expected a whole number for {key}, found {show(value)}")
        if not minimum <= value <= most:
            raise self.bad(f"expected {key} in {minimum}..{most}, found {show(value)}")
        return value

    def number(
        self,
        key: str,
        default: float | None = None,
        low: float = 0,
        high: float = MAX_FLOAT32,
        inside: dict[str, Any] | None = None,
    ) -> float:
        """A number in `low`..`high`, from the top level or from `inside` a section of it."""
        value = (self.values if inside is None else inside).get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.bad(f"expected a number for {key}, found {show(value)}")
        if not low <= value <= high:  # NaN is not; an integer of any size can be compared
            raise self.bad(f"expected {key} in {low}..{high}, found {show(value)}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.bad(f"expected true or false for {key}, found {show(value)}")
        return value

    def section(self, key: str) -> dict[str, Any]:
        """An object, empty when absent."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.bad(f"expected an object for {key}, found {show(value)}")
        return value

    def listed(self, key: str, expected: str, fits: Callable[[Any], bool]) -> list[Any] | None:
        """A list of what `fits`, None when absent."""
        value = self.values.get(key)
        if value is not None and not (isinstance(value, list) and all(map(fits, value))):
            raise self.bad(f"expected a list of {expected} for {key}, found {show(value)}")
        return value

    def layer_types(self, known: tuple[str, ...]) -> list[str] | None:
        """The kind of each layer as the config lists them, None when it does not."""
        types = self.listed("layer_types", " or ".join(known), known.__contains__)
        n_layers = self.count("num_hidden_layers", most=MAX_EACH)
        if types is not None and len(types) != n_layers:
            raise self.bad(f"expected {n_layers} layer_types, found {len(types)}")
        return types
