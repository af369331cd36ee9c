"""Third witness: protocol tables that Apple's compiler wrote, from Apple's SDK.

PyObjC's compiled Metal module refers to many of Metal's protocols; the Objective-C runtime's tables
in it hold every selector of theirs with its types. Layout: `protocol_t` and `method_list_t` of the
open-source objc4 runtime (objc-runtime-new.h).
"""

from __future__ import annotations

import re
import struct
import tempfile
import zipfile
from pathlib import Path

import lief

from . import encodings
from .model import Declarations

NAME = 8  # offsets in protocol_t
METHOD_LISTS = (24, 32, 40, 48)  # required and optional, of instances and classes
RELATIVE_METHODS = 0x80000000  # flag of a method_list_t: entries are three 32-bit offsets


class Image:
    """The arm64 part of a Mach-O file, read by address."""

    def __init__(self, path: Path) -> None:
        fat = lief.MachO.parse(str(path))
        binary = fat.take(lief.MachO.Header.CPU_TYPE.ARM64) if fat else None
        if not isinstance(binary, lief.MachO.Binary):
            raise ValueError(f"no arm64 Mach-O file: {path}")
        self.binary = binary

    def integers(self, layout: str, address: int) -> tuple[int, ...]:
        """Little-endian integers at an address, by struct's letters."""
        layout = "<" + layout
        content = self.binary.get_content_from_virtual_address(address, struct.calcsize(layout))
        return struct.unpack(layout, bytes(content))

    def pointer(self, address: int) -> int:
        """The pointer at an address."""
        return self.integers("Q", address)[0]

    def text(self, address: int) -> str:
        """The C string at an address."""
        found = bytearray()
        while byte := self.integers("B", address + len(found))[0]:
            found.append(byte)
        return found.decode()

    def methods(self, table: int) -> list[tuple[str, str]]:
        """Selectors and type encodings of a method_list_t."""
        size, count = self.integers("II", table)
        found = []
        for i in range(count):
            if size & RELATIVE_METHODS:
                entry = table + 8 + 12 * i
                name, types = self.integers("ii", entry)
                found.append((self.text(self.pointer(entry + name)), self.text(entry + 4 + types)))
            else:
                name, types = self.integers("QQ", table + 8 + 24 * i)
                found.append((self.text(name), self.text(types)))
        return found

    def protocols(self) -> Declarations:
        """All methods of all protocols."""
        found = Declarations()
        section = next(s for s in self.binary.sections if s.name == "__objc_protolist")
        for i in range(section.size // 8):
            protocol = self.pointer(section.virtual_address + 8 * i)
            name = self.text(self.pointer(protocol + NAME))
            for offset in METHOD_LISTS:
                if table := self.pointer(protocol + offset):
                    for selector, types in self.methods(table):
                        found.methods[name, selector] = {encodings.method(types)}
        return found


def read(wheel: Path) -> Declarations:
    """The protocols of the Metal module in a wheel of pyobjc-framework-Metal."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = [n for n in archive.namelist() if re.fullmatch(r"Metal/_Metal\..*\.so", n)]
        return Image(Path(archive.extract(names[0], folder))).protocols()
