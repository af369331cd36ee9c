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
    "libobjc": "/usr/lib/libobjc.A.dylib",
    "libc++": "/usr/lib/libc++.1.dylib",
    "libSystem": SYSTEM,
}


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


def write_stubs(folder: Path) -> None:
    """Writes one .tbd a library under `folder`, laid out as an SDK is (-syslibroot)."""
    known = exports()
    for library, install_name in INSTALL_NAMES.items():
        framework = install_name.startswith(FRAMEWORKS)
        place = f"{FRAMEWORKS}{library}.framework/" if framework else "/usr/lib/"
        path = folder / f".{place}{library}.tbd"
        path.parent.mkdir(parents=True, exist_ok=True)
        names = ", ".join(f"'{name}'" for name in sorted(known[install_name]))
        path.write_text(
            "--- !tapi-tbd\n"
            "tbd-version: 4\n"
            "targets: [ arm64-macos ]\n"
            f"install-name: '{install_name}'\n"
            "exports:\n"
            "  - targets: [ arm64-macos ]\n"
            f"    symbols: [ {names} ]\n"
            "...\n"
        )
