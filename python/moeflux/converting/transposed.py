"""AWQ and GPTQ: matrices whose codes lie transposed, as MLX's, which they become when read.

A matrix X of `out` rows and `in` columns is three tensors, and a number is scale * (code - zero),
with a scale and a zero for some columns of a row:

    X.scales   F16, BF16 or F32 [in / group, out]
    X.qzeros   I32 [in / group, out * bits / 32]   zeros along a row
    X.qweight  AWQ   I32 [in, out / 8]             codes along a row, as the zeros in an order of
                                                   their own in each word
               GPTQ  I32 [in * bits / 32, out]     codes down a column; zeros are stored less one,
                                                   but for "gptq_v2"; I32 X.g_idx [in] is the group
                                                   of each column, in order without `desc_act`

Source of the layouts: what AutoAWQ's "gemm" and AutoGPTQ write.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arguments import is_integer, show
from ..checkpoint import Checkpoint, Tensor, fail
from ..formats import GROUPS
from ..packing.sources import SourceFiles
from ..spec import Range
from . import decode
from .affine import Array

MAX_BYTES = 256 << 20  # of a matrix's codes, zeros and scales, which are held as a whole
_BITS = {"awq": (4,), "gptq": (2, 4, 8)}
_PLACES = {"awq": (0, 4, 1, 5, 2, 6, 3, 7)}  # in a word, of neighbours; else they are in order
_DTYPES = {"qweight": ("I32",), "qzeros": ("I32",), "scales": ("F16", "BF16", "F32")}
_PARTS = (*_DTYPES, "g_idx")
_HELD = 2  # matrices
_NUMBER = np.dtype(np.float32).itemsize


@dataclass(frozen=True)
class _Method:
    """What a config says of all matrices."""

    name: str
    bits: int
    zero: int  # of a stored 0

    @property
    def shifts(self) -> Array:
        """Of neighbours in a word."""
        places = _PLACES.get(self.name, range(32 // self.bits))
        return np.array(places, np.uint32) * np.uint32(self.bits)

    def shapes(self, out: int, columns: int, groups: int) -> dict[str, tuple[int, ...]]:
        """Of the tensors of a matrix."""
        of_word = 32 // self.bits
        codes = (columns, out // of_word) if self.name == "awq" else (columns // of_word, out)
        return {"qweight": codes, "qzeros": (groups, out // of_word), "scales": (groups, out)}

    def code_rows(self, codes: Array, begin: int, end: int) -> Array:
        """Codes (n, in) of rows begin..end."""
        if self.name == "awq":
            return self._along(codes, begin, end).T
        return self._neighbours(codes[:, begin:end].T)

    def zero_rows(self, zeros: Array, begin: int, end: int) -> Array:
        """Zeros (n, groups) of rows begin..end, float32."""
        return self._along(zeros, begin, end).T.astype(np.float32) + np.float32(self.zero)

    def stream(self, codes: Array) -> Array:
        """MLX's words (n, in * bits / 32) of codes (n, in)."""
        of_word = codes.reshape(len(codes), -1, 32 // self.bits)
        shifts = np.arange(of_word.shape[2], dtype=np.uint32) * np.uint32(self.bits)
        words: Array = np.bitwise_or.reduce(of_word << shifts, axis=2)
        return words

    def _along(self, words: Array, begin: int, end: int) -> Array:
        """Columns begin..end of rows of words."""
        first, last = begin * self.bits // 32, -(-end * self.bits // 32)
        skipped = begin - first * 32 // self.bits
        return self._neighbours(words[:, first:last])[:, skipped : skipped + end - begin]

    def _neighbours(self, words: Array) -> Array:
        mask = np.uint32((1 << self.bits) - 1)
        return ((words[..., None] >> self.shifts) & mask).reshape(len(words), -1)


class _Files(SourceFiles):
    """Files, and behind them one for each matrix: its codes, scales and biases as MLX has them."""

    def __init__(self, checkpoint: Checkpoint, matrices: list[_Parts], method: _Method) -> None:
        super().__init__([file.resolve() for file in checkpoint.files], "convert")
        self.matrices, self._method = matrices, method
        self._held: OrderedDict[int, tuple[Array, Array, Array]] = OrderedDict()
        self._lock = threading.Lock()
        self.held_bytes = sum(sorted(each.held_bytes for each in matrices)[-_HELD:])

    def read(self, place: Range, out: memoryview) -> None:
        """Fills `out` with a range; of a matrix, with whole rows."""
        number = place.file - len(self.files)
        if number < 0:
            super().read(place, out)
            return
        parts, method = self.matrices[number], self._method
        part, begin, end = parts.rows_at(place, method.bits)
        codes, zeros, scales = self._tensors(number)
        if part == "weight":
            rows = method.stream(method.code_rows(codes, begin, end))
        else:
            rows = scales[:, begin:end].T
            if part == "biases":
                rows = -method.zero_rows(zeros, begin, end) * rows
            rows = np.repeat(rows, parts.group // parts.group_of_mlx, axis=1)
        out[: place.nbytes] = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data

    def _tensors(self, number: int) -> tuple[Array, Array, Array]:
        with self._lock:
            if number not in self._held:
                while len(self._held) >= _HELD:
                    self._held.popitem(last=False)
                parts = self.matrices[number]
                scales = decode.numbers(self.stored(parts.scales), parts.scales.dtype)
                self._held[number] = (
                    self._words(parts.codes), self._words(parts.zeros),
                    scales.reshape(parts.scales.shape),
                )  # fmt: skip
            self._held.move_to_end(number)
            return self._held[number]

    def _words(self, tensor: Tensor) -> Array:
        return self.stored(tensor).view("<u4").reshape(tensor.shape)

    def stored(self, tensor: Tensor) -> Array:
        """The bytes of a tensor of the files."""
        buffer = np.empty(tensor.nbytes, np.uint8)
        super().read(Range(tensor.file, tensor.offset, tensor.nbytes), buffer.data)
        return buffer


@dataclass(frozen=True)
class _Parts:
    """The tensors of a matrix."""

    codes: Tensor
    zeros: Tensor
    scales: Tensor
    columns: int

    @property
    def out(self) -> int:
        """Rows."""
        return self.scales.shape[1]

    @property
    def held_bytes(self) -> int:
        """While it is converted: scales are widened."""
        return self.codes.nbytes + self.zeros.nbytes + _NUMBER * math.prod(self.scales.shape)

    @property
    def group(self) -> int:
        """Columns that a scale covers."""
        return self.columns // self.scales.shape[0]

    @property
    def group_of_mlx(self) -> int:
        """The most columns of MLX's groups that are a part of it; 0: none are."""
        return max((group for group in GROUPS if self.group % group == 0), default=0)

    def row_bytes(self, bits: int) -> dict[str, int]:
        """Of the tensors that MLX has, in order."""
        numbers = self.columns // self.group_of_mlx * _NUMBER
        return {"weight": self.columns * bits // 8, "scales": numbers, "biases": numbers}

    def rows_at(self, place: Range, bits: int) -> tuple[str, int, int]:
        """Which of these tensors, and which of its rows, lie at a range."""
        offset = place.offset
        for part, nbytes in self.row_bytes(bits).items():
            if offset < self.out * nbytes:
                return part, offset // nbytes, (offset + place.nbytes) // nbytes
            offset -= self.out * nbytes
        raise AssertionError(f"{place} behind the matrix")

    def tensors(self, module: str, file: int, bits: int) -> Iterator[Tensor]:
        """These tensors, in a file of their own."""
        offset = 0
        for part, nbytes in self.row_bytes(bits).items():
            dtype, total = "U32" if part == "weight" else "F32", self.out * nbytes
            shape = (self.out, nbytes // _NUMBER)
            yield Tensor(f"{module}.{part}", file, offset, total, dtype, shape)
            offset += total


def opened(checkpoint: Checkpoint) -> tuple[Checkpoint, SourceFiles]:
    """A checkpoint of any method that is done here as one of MLX's, and its files.

    Raises:
        FormatError: settings or tensors of such a method that contradict each other.
        IoError: a file cannot be read.
    """
    said = checkpoint.config.get("quantization_config")
    method = said.get("quant_method") if isinstance(said, dict) else None
    if not isinstance(method, str) or method not in _BITS:
        return checkpoint, SourceFiles([file.resolve() for file in checkpoint.files], "convert")
    form = _method(checkpoint, method, said)
    tensors: dict[str, Tensor] = {}
    matrices: list[_Parts] = []
    said_of: dict[str, Any] = {}
    files = list(checkpoint.files)
    for name, tensor in checkpoint.tensors.items():
        module, _, part = name.rpartition(".")
        if f"{module}.qweight" not in checkpoint.tensors or part not in _PARTS:
            tensors[name] = tensor
        elif part == "qweight":
            parts = _parts(checkpoint, module, form)
            tensors |= {each.name: each for each in parts.tensors(module, len(files), form.bits)}
            said_of[module] = {"bits": form.bits, "group_size": parts.group_of_mlx}
            matrices.append(parts)
            files.append(checkpoint.files[tensor.file])
    config = checkpoint.config | {"quantization": said_of, "quantization_config": None}
    source = _Files(checkpoint, matrices, form)
    try:
        _require_order(checkpoint, source)
    except BaseException:
        source.close()
        raise
    return replace(checkpoint, config=config, files=tuple(files), tensors=tensors), source


def _method(checkpoint: Checkpoint, name: str, said: Any) -> _Method:
    def bad(what: str) -> Exception:
        return fail("convert", what, checkpoint.config_file)

    bits = said.get("bits", said.get("w_bit", 4))
    if not is_integer(bits) or bits not in _BITS[name]:
        raise bad(
            f"expected {' or '.join(map(str, _BITS[name]))} bits of {name}, found {show(bits)}"
        )
    version = said.get("version", "gemm")
    if name == "awq" and (not isinstance(version, str) or version.lower() != "gemm"):
        raise bad(f"expected version 'gemm' of awq, found {show(version)}")
    form = said.get("checkpoint_format", "gptq")
    if name == "gptq" and form not in ("gptq", "gptq_v2"):
        raise bad(f"expected checkpoint_format 'gptq' or 'gptq_v2', found {show(form)}")
    return _Method(name, bits, 1 if name == "gptq" and form == "gptq" else 0)


def _parts(checkpoint: Checkpoint, module: str, method: _Method) -> _Parts:
    stored = {part: checkpoint.tensors.get(f"{module}.{part}") for part in _DTYPES}
    codes, zeros, scales = stored["qweight"], stored["qzeros"], stored["scales"]
    if codes is None or zeros is None or scales is None:
        raise fail("convert", f"expected {', '.join(_DTYPES)} of {module}, found fewer",
                   checkpoint.path)  # fmt: skip
    of_word = 32 // method.bits
    where = checkpoint.files[codes.file]
    columns = (codes.shape or (0,))[0] * (1 if method.name == "awq" else of_word)
    groups, out = scales.shape if len(scales.shape) == 2 else (0, 0)
    if not groups or not out or not columns or columns % groups or out % of_word:
        raise fail("convert", f"expected whole groups and words of {module}, found qweight "
                   f"{list(codes.shape)} and scales {list(scales.shape)}", where)  # fmt: skip
    shapes = method.shapes(out, columns, groups)
    for part, tensor in {"qweight": codes, "qzeros": zeros, "scales": scales}.items():
        if tensor.shape != shapes[part] or tensor.dtype not in _DTYPES[part]:
            raise fail("convert", f"expected {' or '.join(_DTYPES[part])} {list(shapes[part])} of "
                       f"{tensor.name}, found {tensor.dtype} {list(tensor.shape)}",
                       where)  # fmt: skip
    found = _Parts(codes, zeros, scales, columns)
    if found.held_bytes > MAX_BYTES:
        raise fail("convert", f"expected at most {MAX_BYTES} bytes of {module}, found "
                   f"{found.held_bytes}", where)  # fmt: skip
    if not found.group_of_mlx:
        raise fail("convert", f"expected groups of a multiple of {GROUPS[0]} columns, found "
                   f"{found.group} of {module}", where)  # fmt: skip
    return found


def _require_order(checkpoint: Checkpoint, source: _Files) -> None:
    """Refuses columns whose groups are not in order: they were quantised by `desc_act`."""
    for parts in source.matrices:
        name = parts.codes.name.removesuffix("qweight") + "g_idx"
        tensor = checkpoint.tensors.get(name)
        if tensor is None:
            continue
        where = checkpoint.files[tensor.file]
        if (tensor.dtype, tensor.shape) != ("I32", (parts.columns,)):
            raise fail("convert", f"expected I32 [{parts.columns}] of {name}, found {tensor.dtype} "
                       f"{list(tensor.shape)}", where)  # fmt: skip
        found = source.stored(tensor).view("<i4")
        if not np.array_equal(found, np.arange(parts.columns) // parts.group):
            raise fail("convert", f"expected the groups of {name} in order, found others: desc_act "
                       "is not done", where)  # fmt: skip
