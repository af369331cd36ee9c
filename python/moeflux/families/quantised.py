"""What a config in MLX's form says of a quantised matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..arguments import is_integer, show
from ..formats import BITS, GROUPS, MODES, affine
from ..safetensors_header import Tensor
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


def as_planes(
    config: Config,
    table: dict[str, Tensor],
    sign: str,
    planes: dict[str, tuple[str, dict[str, str]]],
) -> dict[str, Tensor]:
    """The tensors with those of quantised matrices under the names of their planes.

    Args:
        config: of the checkpoint.
        table: its tensors.
        sign: how the name of a tensor ends that every such matrix has.
        planes: by the end of a tensor's name that of its plane, none where it is left out, and
            dtypes in place of its own.

    Raises:
        FormatError: a tensor is there under both names.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in table.items():
        end = next((end for end in planes if name.endswith(end)), None)
        if end is not None and name.removesuffix(end) + sign in table:
            plane, dtypes = planes[end]
            if not plane:
                continue
            own = name.removesuffix(end) + plane
            if own in table:
                raise config.bad(f"expected {own} or {name}, found both")
            tensor = replace(tensor, name=own, dtype=dtypes.get(tensor.dtype, tensor.dtype))
        found[tensor.name] = tensor
    return found


def one_each(table: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, those of scales that are one number each as matrices of one."""
    return {name: replace(tensor, shape=(1, 1))
            if name.endswith((".scales", ".supers")) and tensor.shape in ((), (1,)) else tensor
            for name, tensor in table.items()}  # fmt: skip


def _listed(values: tuple[Any, ...]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last
