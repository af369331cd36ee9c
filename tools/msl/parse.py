"""Finds functions, kernels, constants and threadgroup memory in a flattened source."""

from __future__ import annotations

import re
from contextlib import suppress

from .expressions import ExpressionError, evaluate, parse
from .model import (
    BUILTINS,
    MAX_BUFFERS,
    SCALARS,
    Block,
    Buffer,
    Builtin,
    Calls,
    Constant,
    Edit,
    Function,
    Kernel,
    Library,
    ThreadgroupArray,
)
from .threadgroup import threadgroup_arrays
from .tokens import Token, closing, split_commas, tokenize

_SPACES = ("device", "constant", "threadgroup", "thread")
SYNCHRONISES = re.compile(
    r"(threadgroup_barrier|simdgroup_(barrier|load|store|multiply_accumulate)|simd_\w+)$"
)
_VECTOR = re.compile(r"(\w*?[a-z])([234])$")
_CONSTANT_QUALIFIERS = ("constant", "constexpr", "const")
_SCALARS = ("float", "uint", "int")  # of which `constant T&` may be
_NOT_VARIABLES = ("using", "typedef", "static_assert", "struct", "enum")


class Parser:
    """One pass over the tokens; `library()` is the result."""

    def __init__(self, text: str):
        self.text = text
        everything = tokenize(text)
        self.docs = [t for t in everything if t.kind == "doc"]
        self.directives = [t for t in everything if t.kind == "directive"]
        self.tokens = [t for t in everything if t.kind not in ("doc", "directive")]
        self.functions: list[Function] = []
        self.constants: list[Constant] = []
        self.values: dict[str, int] = {}  # integer constants, for array bounds
        self.types: list[tuple[int, int]] = []
        self.structs: dict[str, tuple[int, int]] = {}  # { and } by name
        self.edits: list[Edit] = []

    def library(self) -> Library:
        """Reads everything. Raises MslError at the first mistake."""
        index = 0
        while index < len(self.tokens):
            index = self._declaration(index)
        calls = Calls(self.functions)
        arrays = {id(f): threadgroup_arrays(self.tokens, f, self.values) for f in self.functions}
        kernels = [
            self._kernel(f, calls.mentioned(f.name), arrays[id(f)])
            for f in self.functions
            if f.is_kernel
        ]
        return Library(
            self.text,
            self.tokens,
            self.functions,
            kernels,
            self.constants,
            calls,
            self.types,
            self.edits,
        )

    # -- program scope

    def _declaration(self, first: int) -> int:
        """Reads the declaration at `first`; returns the index behind it."""
        if self.tokens[first].text == ";":
            return first + 1
        index, parenthesis, assigned = first, -1, False
        while index < len(self.tokens):
            token = self.tokens[index]
            if self._is_attribute(index):
                index = closing(self.tokens, index)
            elif token.text == "=":
                assigned = True
            elif token.text in ("(", "["):
                if token.text == "(" and parenthesis < 0 and not assigned:
                    parenthesis = index
                index = closing(self.tokens, index)
            elif token.text == "{":
                end = closing(self.tokens, index)
                if parenthesis >= 0 and not assigned:
                    self._function(first, parenthesis, index, end)
                    return end + 1
                if not assigned:
                    self.types.append((index, end))
                    if self.tokens[first].text == "struct":
                        self.structs[self.tokens[first + 1].text] = (index, end)
                index = end
            elif token.text == ";":
                self._variable(first, index, parenthesis)
                return index + 1
            index += 1
        raise self.tokens[first].error("declaration without an end")

    def _function(self, first: int, parenthesis: int, start: int, end: int) -> None:
        head = [t.text for t in self.tokens[first:parenthesis]]
        close = closing(self.tokens, parenthesis)
        if head[0] == "namespace":
            raise self.tokens[first].error("namespaces are not supported here")
        for index in range(close + 1, start):
            if self._is_attribute(index):
                raise self.tokens[index].error(
                    "attribute behind the parameter list (Metal refuses)"
                )
        is_kernel, is_template = "kernel" in head, head[0] == "template"
        name = self.tokens[parenthesis - 1]
        if is_kernel and head[:2] != ["kernel", "void"]:
            raise self.tokens[first].error(
                "a kernel starts with `kernel void name(`, without template or attributes"
            )
        own = {t.text for t in self.tokens[parenthesis:close] if t.kind == "name"}
        used = [
            (t.text, self._is_called(i))
            for i, t in enumerate(self.tokens[start:end], start)
            if t.kind == "name" and self.tokens[i - 1].text not in (".", "->")
        ]
        self.functions.append(
            Function(
                name.text,
                first,
                (parenthesis, close),
                (start, end),
                is_kernel,
                is_template,
                frozenset(word for word, _ in used) - own,
                frozenset(word for word, called in used if called) - own,
            )
        )

    def _variable(self, first: int, end: int, parenthesis: int) -> None:
        tokens = self.tokens[first:end]
        words = [t.text for t in tokens]
        if words[0] == "constant":
            attribute = next((i for i in range(first, end) if self._is_attribute(i)), None)
            if attribute is not None:
                self._function_constant(first, attribute, end)
            elif "=" not in words and "{" not in words:
                raise tokens[0].error("constant without a value (Metal refuses)")
            else:
                self._integer_constant(tokens)
        elif words[0] not in _NOT_VARIABLES and words[0] != "template" and parenthesis < 0:
            raise tokens[0].error("program-scope variable outside `constant` (Metal refuses)")

    def _integer_constant(self, tokens: list[Token]) -> None:
        """Remembers `constant [constexpr] uint NAME = EXPRESSION;` for array bounds."""
        kind, name, *rest = [t.text for t in tokens if t.text not in _CONSTANT_QUALIFIERS]
        if kind in ("uint", "int") and rest[:1] == ["="]:
            with suppress(ExpressionError):  # others are the compiler's to evaluate
                self.values[name] = evaluate(parse(" ".join(rest[1:])), self.values)

    def _function_constant(self, first: int, attribute: int, end: int) -> None:
        token = self.tokens[first]
        words = [t.text for t in self.tokens[first:attribute]]
        names = self._attribute(attribute)
        index = names.get("function_constant")
        if index is None or not index.isdigit():
            raise token.error("expected [[function_constant(NUMBER)]]")
        if len(words) != 3 or words[1] != "uint":
            raise token.error(
                "a function constant is `constant uint NAME [[function_constant(n)]];`"
            )
        doc = "".join(doc.text.strip() for doc in self._docs_above(token)[-1:])
        default = re.fullmatch(r"///\s*@default\s+(\d+)", doc)
        if not default or int(default[1]) > 0xFFFFFFFF:
            raise token.error(
                f"function constant {words[2]}: `/// @default NUMBER` above it is missing"
            )
        if any(c.index == int(index) or c.name == words[2] for c in self.constants):
            raise token.error("two function constants have the same index or name")
        self.constants.append(Constant(words[2], int(index), int(default[1]), token))

    def _is_called(self, index: int) -> bool:
        """Is it `f(` or `f<T, 4>(`, not a variable of that name?"""
        index += 1
        if self.tokens[index].text == "<":
            index += 1
            while self.tokens[index].kind in ("name", "number") or self.tokens[index].text == ",":
                index += 1
            index += self.tokens[index].text == ">"
        return self.tokens[index].text == "("

    # -- attributes

    def _is_attribute(self, index: int) -> bool:
        pair = self.tokens[index : index + 2]
        return (
            len(pair) == 2 and pair[0].text == pair[1].text == "[" and pair[1].start == pair[0].end
        )

    def _attribute(self, index: int) -> dict[str, str]:
        """Names and arguments of `[[..]]`, whose text is blanked for everybody but Metal."""
        end = closing(self.tokens, index)
        self.edits.append(Edit(self.tokens[index].start, self.tokens[end].end, ""))
        found = {}
        for part in split_commas(self.tokens[index + 2 : end - 1]):
            found[part[0].text] = "".join(t.text for t in part[2:-1])
        return found

    # -- kernels

    def _kernel(
        self, function: Function, names: set[str], arrays: list[ThreadgroupArray]
    ) -> Kernel:
        token = self.tokens[function.first]
        kernel = Kernel(
            function.name,
            token,
            self._parameters(function),
            arrays,
            [c for c in self.constants if c.name in names],
            any(SYNCHRONISES.match(name) for name in names),
            self._docs_above(token),
        )
        self._check_parameters(kernel)
        return kernel

    def _docs_above(self, token: Token) -> list[Token]:
        found: list[Token] = []
        for doc in reversed([doc for doc in self.docs if doc.start < token.start]):
            if (doc.file, doc.line) != (token.file, token.line - len(found) - 1):
                break
            found.insert(0, doc)
        return found

    def _parameters(self, function: Function) -> list[Buffer | Block | Builtin]:
        start, end = function.parameters
        parameters: list[Buffer | Block | Builtin] = []
        index = start + 1
        while index < end:
            tokens: list[Token] = []
            attributes: dict[str, str] = {}
            while index < end and self.tokens[index].text != ",":
                if self._is_attribute(index):
                    attributes |= self._attribute(index)
                    index = closing(self.tokens, index)
                else:
                    tokens.append(self.tokens[index])
                index += 1
            index += 1
            parameters.append(self._parameter(tokens, attributes, len(parameters)))
        return parameters

    def _parameter(
        self, tokens: list[Token], attributes: dict[str, str], position: int
    ) -> Buffer | Block | Builtin:
        words = [t.text for t in tokens]
        name = tokens[-1]
        if len(attributes) != 1:
            raise name.error(
                f"parameter {name.text}: exactly one attribute says where it comes from"
            )
        attribute, argument = next(iter(attributes.items()))
        if attribute in BUILTINS:
            return self._builtin(tokens, attribute)
        if attribute != "buffer":
            raise name.error(f"parameter {name.text}: [[{attribute}]] is not supported here")
        if argument != str(position) or position >= MAX_BUFFERS:
            raise name.error(
                f"parameter {name.text}: buffers come first, numbered from 0 to {MAX_BUFFERS - 1} "
                f"in order: expected [[buffer({position})]], found [[buffer({argument})]]"
            )
        base = [w for w in words[:-1] if w not in (*_SPACES, "const", "*", "&")]
        shape = [w for w in words[:-1] if w not in base]
        if len(base) != 1 or shape not in (
            ["device", "*"],
            ["device", "const", "*"],
            ["constant", "&"],
        ):
            raise name.error(
                f"parameter {name.text}: expected `device T*`, `device const T*` or `constant T&`"
            )
        vector = _VECTOR.match(base[0])
        element, width = (vector[1], int(vector[2])) if vector else (base[0], 1)
        scalar = shape[0] == "constant"
        if scalar and base[0] in self.structs:
            return Block(name.text, base[0], self._fields(*self.structs[base[0]]))
        if element not in SCALARS or width == 3 or (scalar and base[0] not in _SCALARS):
            raise name.error(
                f"parameter {name.text}: no binding has the type {base[0]}; scalars are "
                f"{', '.join(_SCALARS)} or a struct of them, buffers {', '.join(SCALARS)} or their "
                "vectors of 2 and 4"
            )
        return Buffer(name.text, base[0], element, width, scalar, shape == ["device", "*"], name)

    def _fields(self, start: int, end: int) -> list[Buffer]:
        """`uint a, b; float c;` as scalars."""
        fields: list[Buffer] = []
        first = start + 1
        for stop in range(first, end):
            if self.tokens[stop].text != ";":
                continue
            kind, names = self.tokens[first].text, split_commas(self.tokens[first + 1 : stop])
            if kind not in _SCALARS or any(len(name) != 1 for name in names):
                raise self.tokens[first].error(
                    f"expected fields that are {', '.join(_SCALARS)}: a kernel takes this struct"
                )
            fields += [Buffer(n.text, kind, kind, 1, True, False, n) for (n,) in names]
            first = stop + 1
        return fields

    def _builtin(self, tokens: list[Token], attribute: str) -> Builtin:
        name = tokens[-1]
        widths = {"uint": 1, "uint2": 2, "uint3": 3}
        kind = " ".join(t.text for t in tokens[:-1])
        if kind not in widths or (widths[kind] > 1 and not BUILTINS[attribute]):
            raise name.error(f"parameter {name.text}: [[{attribute}]] cannot have the type {kind}")
        return Builtin(name.text, attribute, widths[kind])

    def _check_parameters(self, kernel: Kernel) -> None:
        builtins = [p for p in kernel.parameters if isinstance(p, Builtin)]
        if len({p.width for p in builtins if BUILTINS[p.attribute]}) > 1:
            raise kernel.token.error(
                "position attributes mix widths: Metal wants all scalar or all vectors of one width"
            )
        if len({p.attribute for p in builtins}) != len(builtins):
            raise kernel.token.error("an attribute is used twice")
        bound = [p for p in kernel.parameters if not isinstance(p, Builtin)]
        if any(isinstance(p, Block) for p in bound[:-1]):
            raise kernel.token.error("a struct of arguments is the last of the buffers")
        if len(kernel.bindings) > MAX_BUFFERS:
            raise kernel.token.error(f"expected at most {MAX_BUFFERS} arguments, fields counted")
