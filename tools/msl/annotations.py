"""The `@` lines above a kernel: sizes, legal threadgroups, geometry, requirements.

Grammar (tools/README.md has the meaning):

    /// @aligned NAME expr
    /// @elements NAME expr, or NAME[COUNT] expr for NAME0, NAME1 .. with # for the number
    /// @threadgroup any | multiple of 32 | NUMBER, the first two also with `up to NUMBER`
    /// @default_threadgroup expr
    /// @grid expr
    /// @require expr
"""

from __future__ import annotations

import re

from .errors import MslError
from .expressions import ExpressionError, parse, to_cpp
from .model import Kernel
from .tokens import Token

_TAGS = ("elements", "aligned", "threadgroup", "default_threadgroup", "grid", "require")
_GEOMETRY = ("grid", "threads", "groups")


def annotate(kernel: Kernel) -> None:
    """Fills in the annotated part of `kernel`. Raises MslError at the line that is wrong."""
    for param in kernel.bindings:
        if param.name in _GEOMETRY:
            raise param.token.error(
                f"the name {param.name} has a meaning of its own in annotations"
            )
    for doc in kernel.docs:
        text = doc.text.removeprefix("///").strip()
        if not text.startswith("@"):
            continue
        tag, _, rest = text[1:].partition(" ")
        if tag not in _TAGS:
            raise doc.error(f"@{tag} is no annotation: expected one of @{', @'.join(_TAGS)}")
        try:
            _ANNOTATE[tag](kernel, rest.strip(), doc)
        except ExpressionError as error:
            raise doc.error(f"@{tag} {rest.strip()}: {error}") from None
    for param in kernel.bindings:
        if not param.scalar and param.elements is None:
            raise param.token.error(
                f"kernel {kernel.name}: `/// @elements {param.name} ..` is missing"
            )
    if kernel.threadgroup == "":
        raise kernel.token.error(f"kernel {kernel.name}: `/// @threadgroup ..` is missing")


def _cpp(kernel: Kernel, text: str, geometry: tuple[str, ...]) -> str:
    """C++ of an expression over the kernel's scalars, constants and what `geometry` allows."""

    def name(word: str) -> str:
        if word in _GEOMETRY:
            if word not in geometry:
                raise ExpressionError(f"{word} is not known here")
            return f"{word}(call)"
        for index, param in enumerate(kernel.bindings):
            if param.name == word:
                if not param.scalar or param.element != "uint":
                    raise ExpressionError(f"{word} is no u32 scalar")
                return f"scalar(call, {index})"
        for index, constant in enumerate(kernel.constants):
            if constant.name == word:
                return f"constant(call, {index})"
        raise ExpressionError(f"kernel {kernel.name} has no scalar or function constant {word}")

    def buffer(function: str, word: str) -> str:
        for index, param in enumerate(kernel.bindings):
            if param.name == word and not param.scalar:
                if function == "maxof":
                    if param.element != "uint":
                        raise ExpressionError(f"{word} is no u32 buffer")
                    param.needs_maximum = True
                return f"{'length' if function == 'len' else 'maximum'}(call, {index})"
        raise ExpressionError(f"kernel {kernel.name} has no buffer {word}")

    return to_cpp(parse(text), name, buffer)


def _elements(kernel: Kernel, rest: str, doc: Token) -> None:
    name, _, text = rest.partition(" ")
    if several := re.fullmatch(r"(\w+)\[(\d+)\]", name):
        for index in range(int(several[2])):
            _elements(kernel, f"{several[1]}{index} {text.replace('#', str(index))}", doc)
        return
    param = next((p for p in kernel.bindings if p.name == name and not p.scalar), None)
    if param is None:
        raise doc.error(f"kernel {kernel.name} has no buffer {name}")
    _once(param.elements is None, doc)
    param.elements = _cpp(kernel, text, _GEOMETRY)


def _aligned(kernel: Kernel, rest: str, doc: Token) -> None:
    name, _, text = rest.partition(" ")
    param = next((p for p in kernel.bindings if p.name == name and not p.scalar), None)
    if param is None:
        raise doc.error(f"kernel {kernel.name} has no buffer {name}")
    _once(param.aligned is None, doc)
    param.aligned = _cpp(kernel, text, ())


def _threadgroup(kernel: Kernel, rest: str, doc: Token) -> None:
    _once(kernel.threadgroup == "", doc)
    rest, up_to, most = rest.partition(" up to ")
    if up_to:
        if rest not in ("any", "multiple of 32") or not _is_threads(most):
            raise doc.error(
                f"@threadgroup {rest}{up_to}{most}: expected a kind and a multiple of 32 up to 1024"
            )
        kernel.largest_threads = int(most)
    if rest in ("any", "multiple of 32"):
        kernel.threadgroup = rest
    elif _is_threads(rest):
        kernel.threadgroup = int(rest)
    else:
        raise doc.error(
            f"@threadgroup {rest}: expected any, multiple of 32 or such a multiple up to 1024"
        )


def _is_threads(text: str) -> bool:
    return text.isdigit() and 0 < int(text) <= 1024 and int(text) % 32 == 0


def _default_threadgroup(kernel: Kernel, rest: str, doc: Token) -> None:
    _once(kernel.default_threadgroup is None, doc)
    kernel.default_threadgroup = _cpp(kernel, rest, ())


def _grid(kernel: Kernel, rest: str, doc: Token) -> None:
    _once(kernel.default_grid is None, doc)
    kernel.default_grid = _cpp(kernel, rest, ("threads",))


def _require(kernel: Kernel, rest: str, doc: Token) -> None:
    kernel.requirements.append((_cpp(kernel, rest, _GEOMETRY), rest))


def _once(first: bool, doc: Token) -> None:
    if not first:
        raise doc.error(f"{doc.text.strip()}: said twice")


_ANNOTATE = {
    "elements": _elements,
    "aligned": _aligned,
    "threadgroup": _threadgroup,
    "default_threadgroup": _default_threadgroup,
    "grid": _grid,
    "require": _require,
}


def check_names(kernels: list[Kernel]) -> None:
    """Two kernels of one name would hide each other."""
    seen: dict[str, Kernel] = {}
    for kernel in kernels:
        if kernel.name in seen:
            first = seen[kernel.name].token
            raise MslError(
                kernel.token.file,
                kernel.token.line,
                f"kernel {kernel.name} is already in {first.file}:{first.line}",
            )
        seen[kernel.name] = kernel
