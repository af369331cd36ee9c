"""Which of Apple's libraries exports what, and text stubs (.tbd) of them for the linker.

symbols.json holds the libraries that no registry package describes; witnesses.py made it. libSystem
comes from ziglang, which ships Apple's own stub. The table says where a name lives; since when it
does is the compiler's to check, by the availability marks in the headers.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml
import ziglang

FRAMEWORKS = "/System/Library/Frameworks/"
SYSTEM = "/usr/lib/libSystem.B.dylib"
# What -framework and -l look for -> install name, the path that the module will ask dyld for.
INSTALL_NAMES = {
    "Metal": f"{FRAMEWORKS}Metal.framework/Versions/A/Metal",
    "Foundation": f"{FRAMEWORKS}Foundation.framework/Versions/C/Foundation",
    "CoreFoundation": f"{FRAMEWORKS}CoreFoundation.framework/Versions/A/CoreFoundation",
    "CoreGraphics": f"{FRAMEWORKS}CoreGraphics.framework/Versions/A/CoreGraphics",
    "libobjc": "/usr/lib/libobjc.A.dylib",
    "libc++": "/usr/lib/libc++.1.dylib",
    "libSystem": SYSTEM,
}
# A program that names Foundation alone finds these too, each asked by its own install name.
REEXPORTED = {"Foundation": ["CoreFoundation", "libobjc"]}


def _system_exports() -> set[str]:
    """What libSystem and the libraries that it re-exports offer to arm64."""
    stub = Path(ziglang.__file__).parent / "lib/libc/darwin/libSystem.tbd"
    yaml.SafeLoader.add_constructor(
        "!tapi-tbd", lambda loader, node: loader.construct_mapping(node, deep=True)
    )
    names: set[str] = set()
    for library in yaml.safe_load_all(stub.read_text()):
        for group in library.get("exports", []) + library.get("reexports", []):
            if any(target.startswith("arm64") for target in group["targets"]):
                for key in ("symbols", "weak-symbols", "thread-local-symbols"):
                    names.update(group.get(key, []))
                names.update(f"_OBJC_CLASS_$_{name}" for name in group.get("objc-classes", []))
    return {name for name in names if not name.startswith("$ld$")}  # orders to the linker


def exports() -> dict[str, set[str]]:
    """Install name -> the symbols that the library exports, as far as is known here."""
    table = json.loads(Path(__file__).with_name("symbols.json").read_text())
    known = {INSTALL_NAMES[library]: set(names) for library, names in table.items()}
    return known | {SYSTEM: _system_exports()}


def stub_text(install_name: str, symbols: set[str], reexported: list[str]) -> str:
    """The text of a .tbd file, version 4."""
    text = [
        "--- !tapi-tbd",
        "tbd-version: 4",
        "targets: [ arm64-macos ]",
        f"install-name: '{install_name}'",
    ]
    for key, entry, names in (
        ("reexported-libraries", "libraries", reexported),
        ("exports", "symbols", sorted(symbols)),
    ):
        if names:
            quoted = ", ".join(f"'{name}'" for name in names)
            text += [f"{key}:", "  - targets: [ arm64-macos ]", f"    {entry}: [ {quoted} ]"]
    return "\n".join([*text, "...", ""])


def write_stubs(folder: Path) -> None:
    """Writes one .tbd a library under `folder`, laid out as an SDK is (-syslibroot)."""
    known = exports()
    for library, install_name in INSTALL_NAMES.items():
        path = folder / f".{install_name.removesuffix('.dylib')}.tbd"
        path.parent.mkdir(parents=True, exist_ok=True)
        reexported = [INSTALL_NAMES[name] for name in REEXPORTED.get(library, ())]
        path.write_text(stub_text(install_name, known[install_name], reexported))
        # Where -framework and -l look.
        framework = install_name.startswith(FRAMEWORKS)
        place = f"{FRAMEWORKS}{library}.framework/" if framework else "/usr/lib/"
        link = folder / f".{place}{library}.tbd"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
