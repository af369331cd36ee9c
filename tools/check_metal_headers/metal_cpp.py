"""First witness: metal-cpp, Apple's C++ headers of Metal, which the wheel of mlx-metal ships.

Its inline methods name the selector that they send; its enumerations repeat Metal's numbers.
"""

from __future__ import annotations

import ast
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from .model import Declarations, Types

BASIC = {
    "void": "v", "bool": "B", "int": "i", "uint8_t": "C", "uint32_t": "I", "uint64_t": "Q",
    "UInteger": "Q", "Integer": "q", "StringEncoding": "Q", "GPUAddress": "Q", "float": "f",
    "double": "d", "CFTimeInterval": "d", "TimeInterval": "d", "char*": "*", "void*": "^v",
    "Error**": "^@", "AutoreleasedComputePipelineReflection*": "^@", "ErrorDomain": "@",
}  # fmt: skip
BLOCK = r"(\w+)\s*\(\s*\^\s*\w*\s*\)\s*\((.*)\)"
ENUMERATION = r"_(?:MTL|NS)_(?:ENUM|OPTIONS)\(([\w:]+),\s*(\w+)\)\s*\{(.*?)\}"
INLINE = (
    r"^_(?:MTL|NS)_INLINE\s+([^\n;{}]*?)\s*\b(MTL4?|NS)::(\w+)::\w+\(([^{};]*?)\)\s*(?:const)?\s*"
    r"\{(.*?)^\}"
)


class Reader:
    """Reads the headers' text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.selectors = dict(
            re.findall(r"_(?:MTL|NS)_PRIVATE_DEF_SEL\(\s*(\w+),\s*\"([^\"]+)\"\)", text)
        )
        self.underlying = {name: kind for kind, name, _ in re.findall(ENUMERATION, text, re.S)}
        self.blocks = dict(re.findall(r"using (\w+)\s*=\s*(void ?\(\^.*\));", text))
        self.bases = {
            name: [base.strip().split("::")[-1] for base in bases.split(",")[1:]]
            for name, bases in re.findall(
                r"^class (\w+)\s*:\s*public NS::(?:Referencing|Copying|SecureCoding)<([\w:, ]+)>",
                text, re.M,
            )
        }  # fmt: skip

    def encode(self, text: str) -> str:
        """The encoding of a C++ type."""
        text = re.sub(r"\b(const|class|struct)\b|\b(MTL4?|NS|std|CA)::", "", text).strip()
        if block := re.fullmatch(BLOCK, self.blocks.get(text, text)):
            arguments = "".join(self._parameters(block[2]))
            return f"@?<{self.encode(block[1])}@?{arguments}>"
        text = re.sub(r"\s+", "", text)
        if text in BASIC:
            return BASIC[text]
        if re.fullmatch(r"\w+\*\w*\[\]", text):  # an array of objects
            return "^@"
        if text in self.underlying:
            return self.encode(self.underlying[text])
        return "@" if text.endswith("*") else f"{{MTL{text}}}"

    def read(self) -> Declarations:
        """Methods (inherited ones under each heir), enumerators, functions, external names."""
        found = Declarations()
        for result, space, name, parameters, body in re.findall(INLINE, self.text, re.S | re.M):
            sent = re.search(r"_(?:MTL|NS)_PRIVATE_SEL\((\w+)\)", body)
            if sent and sent[1] in self.selectors:
                types = Types(self.encode(result), tuple(self._parameters(parameters)))
                key = (space + name, self.selectors[sent[1]])
                found.methods.setdefault(key, set()).add(types)
        self._inherit(found)
        for _, _, body in re.findall(ENUMERATION, self.text, re.S):
            found.enumerators.update(_numbers(body))
        found.constants.update(re.findall(r"_MTL_CONST\(NS::ErrorDomain, (\w+)\)", self.text))
        found.constants.update(re.findall(r"_MTL_PRIVATE_DEF_STR\([\w:]+, (\w+)\)", self.text))
        for result, name in re.findall(r"extern \"C\" ([\w:*]+) (MTL\w+)\(\);", self.text):
            found.functions[name] = Types(self.encode(result), ())
        return found

    def _parameters(self, text: str) -> Iterator[str]:
        for parameter in _split(text):
            named = re.fullmatch(r"(.*[\s*&])\w+", parameter)
            yield self.encode(named[1] if named else parameter)

    def _inherit(self, found: Declarations) -> None:
        for name in self.bases:
            ancestors = list(self.bases[name])
            while ancestors:
                base = ancestors.pop()
                ancestors += self.bases.get(base, [])
                for (owner, selector), types in list(found.methods.items()):
                    if owner in (f"MTL{base}", f"NS{base}"):
                        found.methods.setdefault((f"MTL{name}", selector), types)


def _split(parameters: str) -> Iterator[str]:
    depth = 0
    start = 0
    for position, char in enumerate(parameters + ","):
        depth += (char in "(<") - (char in ")>")
        if char == "," and depth == 0:
            if parameter := parameters[start:position].strip():
                yield parameter
            start = position + 1


def _numbers(body: str) -> Iterator[tuple[str, int]]:
    """`Name = expression,` with the prefix that Objective-C gives it; others are passed over."""
    for name, expression in re.findall(r"(\w+)\s*=\s*([^,]+),", body):
        try:
            number = eval(compile(ast.parse(expression.strip(), mode="eval"), "", "eval"), {}, {})
        except (NameError, SyntaxError, TypeError):
            continue
        if isinstance(number, int):
            yield "MTL" + name, number
            yield "NS" + name, number


def read(wheel: Path) -> Declarations:
    """The declarations of the metal-cpp inside a wheel of mlx-metal."""
    with zipfile.ZipFile(wheel) as archive:
        names = [
            name
            for name in archive.namelist()
            if re.search(r"/metal_cpp/(Metal|Foundation)/\w+\.hpp$", name)
        ]
        return Reader("\n".join(archive.read(name).decode() for name in sorted(names))).read()
