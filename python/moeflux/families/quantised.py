"""What a config in MLX's form says of a quantised matrix."""

from __future__ import annotations

from typing import Any

from ..arguments import is_integer, show
from ..formats import BITS, GROUPS, MODES, affine
from .config import Config


def quantised(config: Config, name: str, columns: int, said: dict[str, Any]) -> tuple[str, int]:
    """Format and group size of the matrix `name` with so many columns.

    `said` has the fields of MLX's quantisation, whose defaults are those of its mode.

    Raises:
        FormatError: it asks for what no format is.
    """
    mode = said.get("mode", "affine")
    if not isinstance(mode, str) or mode not in ("affine", *MODES):
        raise config.bad(f"expected quantisation of {name} in mode {_listed(('affine', *MODES))}, "
                         f"found {show(mode)}")  # fmt: skip
    if mode == "affine":
        all_bits, groups = BITS, GROUPS
        bits, group = said.get("bits", 4), said.get("group_size", 64)
    else:
        all_bits, groups = (MODES[mode].bits,), (MODES[mode].group,)
        bits, group = said.get("bits", all_bits[0]), said.get("group_size", groups[0])
    if not (is_integer(bits) and is_integer(group) and bits in all_bits and group in groups):
        raise config.bad(f"expected {_listed(all_bits)} bits in groups of {_listed(groups)}, found "
                         f"{show(bits)} and {show(group)} for {name}")  # fmt: skip
    form = affine(bits) if mode == "affine" else MODES[mode].format
    return form, whole_groups(config, name, columns, group)


def whole_groups(config: Config, name: str, columns: int, group: int) -> int:
    """The group, or a FormatError where columns are left over."""
    if columns % group:
        raise config.bad(f"expected columns in whole groups of {group}, found {columns} of {name}")
    return group


def _listed(values: tuple[Any, ...]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last
