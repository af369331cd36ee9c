"""Our side: clang's syntax tree of the headers, for the target that they stand in for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .model import Declarations, Types

TARGET = ["-target", "aarch64-macos.14.0", "-std=c++20", "-g0"]
PREFIXES = ("MTL", "NS")
NOT_OURS = {"NSObject"}  # from the compiler's own headers, on this target
ATTRIBUTES = (
    r"\b(_Nonnull|_Nullable|_Null_unspecified|__autoreleasing|__strong|__unsafe_unretained|const)\b"
)
BASIC = {
    "void": "v", "bool": "B", "signed char": "c", "unsigned char": "C", "int": "i",
    "unsigned int": "I", "long": "q", "long long": "q", "unsigned long": "Q",
    "unsigned long long": "Q", "float": "f", "double": "d", "char *": "*", "void *": "^v",
    "id": "@", "instancetype": "@", "Class": "#", "SEL": ":",
}  # fmt: skip
Node = dict[str, Any]


class HeaderError(Exception):
    """The headers do not compile."""


def zig(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs zig's C++ compiler, which brings the rest of macOS's headers."""
    command = [sys.executable, "-m", "ziglang", "c++", *TARGET, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def syntax_tree(include: Path) -> list[Node]:
    """The top-level declarations of <Metal/Metal.h>."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "headers.mm"
        source.write_text("#import <Metal/Metal.h>\n")
        arguments = ["-I", str(include), "-c", str(source), "-o", f"{folder}/headers.o"]
        compiled = zig(arguments)
        if compiled.returncode:
            raise HeaderError(compiled.stderr)
        # zig misses the object file that this one does not make, so its exit status tells nothing.
        dumped = zig([*arguments, "-Xclang", "-ast-dump=json"])
    return list(_flat(json.loads(dumped.stdout)["inner"]))


def _flat(nodes: list[Node]) -> Iterator[Node]:
    """With what stands in `extern "C"`."""
    for node in nodes:
        if node["kind"] == "LinkageSpecDecl":
            yield from _flat(node.get("inner", []))
        else:
            yield node


class Reader:
    """Turns a syntax tree into declarations."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.enumerations = {
            node["name"]: self.encode(node["fixedUnderlyingType"])
            for node in nodes
            if node["kind"] == "EnumDecl" and "name" in node and "fixedUnderlyingType" in node
        }

    def encode(self, type_: Node) -> str:
        """The encoding of a type node."""
        return self.encode_text(type_.get("desugaredQualType") or type_["qualType"])

    def encode_text(self, text: str) -> str:
        """The same of its text."""
        if block := re.fullmatch(r"(.+?) \(\^[^)]*\)\((.*)\)", text):
            arguments = [self.encode_text(a) for a in block[2].split(", ") if a]
            return f"@?<{self.encode_text(block[1])}@?{''.join(arguments)}>"
        text = " ".join(re.sub(ATTRIBUTES, "", text).split()).replace("* *", "**")
        text = re.sub(r"^(enum|struct) ", "", text)
        if text in BASIC:
            return BASIC[text]
        aliases = {"NSUInteger": "Q", "NSInteger": "q", "uint64_t": "Q", "BOOL": "B"}
        if text in aliases:
            return aliases[text]
        if text in getattr(self, "enumerations", {}):
            return self.enumerations[text]
        if text.endswith("**") or text == "MTLAutoreleasedComputePipelineReflection *":
            return "^@"
        if re.fullmatch(r"(const )?id<\w+> ?\*", text):  # an array of objects
            return "^@"
        if text.endswith("*") or text.startswith("id<"):
            return "@"
        return f"{{{text}}}"

    def signature(self, node: Node, result: Node) -> Types:
        """Of a method or function node."""
        arguments = [n for n in node.get("inner", []) if n["kind"] == "ParmVarDecl"]
        return Types(self.encode(result), tuple(self.encode(n["type"]) for n in arguments))

    def read(self) -> Declarations:
        """Everything with a prefix of Apple's that Metal/Metal.h and Foundation declare."""
        found = Declarations()
        for node in self.nodes:
            if node["kind"] == "EnumDecl":
                self._read_enumerators(node, found)
            name = node.get("name", "")
            if not name.startswith(PREFIXES) or name in NOT_OURS:
                continue
            if node["kind"] in ("ObjCProtocolDecl", "ObjCInterfaceDecl"):
                for method in node.get("inner", []):
                    if method["kind"] == "ObjCMethodDecl":
                        types = self.signature(method, method["returnType"])
                        found.methods[name, method["name"]] = {types}
            elif node["kind"] == "FunctionDecl" and "inline" not in node:
                result = {"qualType": node["type"]["qualType"].split(" (")[0]}
                found.functions[name] = self.signature(node, result)
            elif node["kind"] == "VarDecl":
                found.constants.add(name)
            elif node["kind"] == "TypedefDecl":
                self._read_structure(node, found)
        return found

    def _read_enumerators(self, node: Node, found: Declarations) -> None:
        for enumerator in node.get("inner", []):
            if enumerator["kind"] == "EnumConstantDecl" and enumerator["name"].startswith(PREFIXES):
                found.enumerators[enumerator["name"]] = int(enumerator["inner"][0]["value"])

    def _read_structure(self, node: Node, found: Declarations) -> None:
        """A `typedef struct {...} name`: the fields stand in the record before it."""
        record = self.nodes[self.nodes.index(node) - 1]
        if record["kind"] != "CXXRecordDecl" or "name" in record:
            return
        found.structures[node["name"]] = tuple(
            (n["name"], self.encode(n["type"])) for n in record["inner"] if n["kind"] == "FieldDecl"
        )


def read(include: Path) -> Declarations:
    """The declarations of the headers in `include`. Raises HeaderError."""
    return Reader(syntax_tree(include)).read()
