"""Second witness: the metadata of PyObjC's wheels, generated from Apple's SDK.

Enumerators with their numbers, external names, functions, structures, and those types of methods
that Python cannot guess. Methods of protocols are listed by selector alone, so two protocols may
collide.
"""

from __future__ import annotations

import ast
import re
import zipfile
from pathlib import Path
from typing import Any

from .encodings import simplify, split
from .model import Declarations, Types

PYOBJC_CODES = {"Z": "B", "z": "C", "^t": "*"}  # PyObjC's own letters: BOOL, byte, text
ANY_PROTOCOL = "NSObject"  # the owner that it gives to methods of protocols


def _code(text: bytes | str) -> str:
    text = simplify(text.decode() if isinstance(text, bytes) else text)
    return PYOBJC_CODES.get(text, text)


def _value(node: ast.expr) -> Any:
    """A literal of the metadata; of a choice by word size the 64-bit side, else the first."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _value(node.args[1 if node.func.id == "sel32or64" else 0])
    if isinstance(node, ast.Dict):
        keys = [_value(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_value, node.values), strict=True))
    return ast.literal_eval(node)


def _block(argument: dict[str, Any]) -> str:
    called = argument["callable"]
    taken = called["arguments"]
    types = [_code(taken[index]["type"]) for index in sorted(taken)[1:]]  # the first is the block
    return f"@?<{_code(called['retval']['type'])}@?{''.join(types)}>"


class Method:
    """What the metadata says of one method; arguments that it does not mention are unknown."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.result = _code(data["retval"]["type"]) if "type" in data.get("retval", {}) else None
        self.arguments: dict[int, str] = {}
        for index, argument in data.get("arguments", {}).items():
            if "callable" in argument:
                self.arguments[index - 2] = _block(argument)
            elif "type" in argument:
                self.arguments[index - 2] = _code(argument["type"])

    def __str__(self) -> str:
        arguments = ", ".join(f"{i}: {type_}" for i, type_ in self.arguments.items())
        return f"({self.result}) <- ({arguments})"


class Metadata:
    """One `_metadata.py`."""

    def __init__(self, text: str) -> None:
        self.declarations = Declarations()
        self.methods: dict[tuple[str, str], Method] = {}
        for block in re.findall(r'enums = """(.*?)"""', text, re.S):
            for name, number in re.findall(r"\$(\w+)@(-?\d+)", block):
                self.declarations.enumerators[name] = int(number)
        for block in re.findall(r'constants = """(.*?)"""', text, re.S):
            self.declarations.constants.update(re.findall(r"\$(\w+)", block))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                self._read_call(node)
            elif isinstance(node, ast.Dict):
                self._read_functions(node)

    def _read_call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "r" and len(node.args) == 3:
            owner, selector = _value(node.args[0]).decode(), _value(node.args[1]).decode()
            self.methods[owner, selector] = Method(_value(node.args[2]))
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "createStructType":
            name, encoding, fields = (_value(argument) for argument in node.args[:3])
            inner = encoding.decode().partition("=")[2].rstrip("}")
            if fields and "{" not in inner and "[" not in inner:
                self.declarations.structures[name.rpartition(".")[2]] = tuple(
                    zip(fields, split(inner), strict=True)
                )

    def _read_functions(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if not (isinstance(key, ast.Constant) and isinstance(value, ast.Tuple) and value.elts):
                continue
            first = value.elts[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, bytes):
                result, *arguments = split(first.value.decode())
                self.declarations.functions[str(key.value)] = Types(result, tuple(arguments))


def read(wheel: Path, package: str) -> Metadata:
    """The metadata of `package` (Metal, Foundation) in a wheel of PyObjC."""
    with zipfile.ZipFile(wheel) as archive:
        return Metadata(archive.read(f"{package}/_metadata.py").decode())
