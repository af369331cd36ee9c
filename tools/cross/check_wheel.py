"""Finds in a macOS wheel what macOS would refuse, or what would fail only there.

Usage: check_wheel.py WHEEL, made from the checkout that this file is in by the Python minor version
that runs it. Exit status 1: something is wrong.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import lief
import stubs
from packaging.tags import cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename
from signature import check_signature

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from msl.instantiate import instantiate  # noqa: E402
from msl.source import flatten, shader_files  # noqa: E402

MACOS = (14, 0)
PLATFORM = "macosx_14_0_arm64"
METADATA = ["METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"]
FLAT_LOOKUP = -2  # BIND_SPECIAL_DYLIB_FLAT_LOOKUP of <mach-o/loader.h>


def module_name() -> str:
    major, minor = sys.version_info[:2]
    return f"moeflux/_core.cpython-{major}{minor}-darwin.so"


def check_tag(wheel: Path) -> Iterator[str]:
    """The name is one that pip takes on macOS 14 and later, and no earlier one."""
    _, _, _, tags = parse_wheel_filename(wheel.name)
    python = sys.version_info[:2]
    name = "cp{}{}".format(*python)
    wanted = f"{name}-{name}-{PLATFORM}"
    if [str(tag) for tag in tags] != [wanted]:
        yield f"tag: expected {wanted}, found {wheel.name}"
    for version, fits in ((MACOS, True), ((15, 0), True), ((13, 0), False)):
        platforms = list(mac_platforms(version, "arm64"))
        if any(tag in tags for tag in cpython_tags(python, platforms=platforms)) != fits:
            yield f"tag: macOS {version[0]} {'refuses' if fits else 'takes'} {wheel.name}"
    with zipfile.ZipFile(wheel) as archive:
        stated = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        if len(stated) != 1 or f"Tag: {wanted}\n" not in archive.read(stated[0]).decode():
            yield f"tag: the WHEEL file does not say {wanted}"


def check_files(wheel: Path) -> Iterator[str]:
    """The wheel holds the package, its module and its metadata, and nothing else."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "python/moeflux"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    name, version, _, _ = parse_wheel_filename(wheel.name)
    wanted = {path.removeprefix("python/") for path in listed} | {module_name()}
    wanted |= {f"{name}-{version}.dist-info/{file}" for file in METADATA}
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    for path in sorted(found - wanted):
        yield f"files: {path} does not belong into the wheel"
    for path in sorted(wanted - found):
        yield f"files: {path} is missing"


def check_header(module: lief.MachO.Binary) -> Iterator[str]:
    header, build = module.header, module.build_version
    if header.cpu_type != lief.MachO.Header.CPU_TYPE.ARM64 or header.cpu_subtype & 0xFFFFFF:
        yield f"header: expected arm64, found {header.cpu_type} {header.cpu_subtype}"
    if header.file_type != lief.MachO.Header.FILE_TYPE.BUNDLE:
        yield f"header: expected MH_BUNDLE, found {header.file_type}"
    if lief.MachO.Header.FLAGS.TWOLEVEL not in header.flags_list:
        yield "header: no two-level namespace"
    if build is None or build.platform != lief.MachO.BuildVersion.PLATFORMS.MACOS:
        yield "header: not built for macOS"
    elif tuple(build.minos[:2]) != MACOS:
        yield f"header: expected minimum macOS {MACOS}, found {build.minos}"
    if module.has_rpath:
        yield f"header: rpath {[rpath.path for rpath in module.rpaths]}"


def check_libraries(module: lief.MachO.Binary) -> Iterator[str]:
    """Each library is Apple's, under its install name, and exports what is asked of it."""
    known = stubs.exports()
    for library in module.libraries:
        if library.name not in known:
            yield f"libraries: {library.name} is none of Apple's that we use"
    imported = set()
    for binding in module.bindings:
        name = binding.symbol.name
        if binding.has_library:
            imported.add((binding.library.name, name))
            if name not in known.get(binding.library.name, ()):
                yield f"imports: {binding.library.name} is not known to export {name}"
        elif binding.library_ordinal != FLAT_LOOKUP:
            yield f"imports: {name} is coalesced at load time"
        elif not re.match(r"__?Py", name) or not hasattr(ctypes.pythonapi, name[1:]):
            yield f"imports: {name} is not of Python's C interface"
    if (stubs.INSTALL_NAMES["Metal"], "_MTLCreateSystemDefaultDevice") not in imported:
        yield "imports: Metal is never asked for a device"


def check_exports(module: lief.MachO.Binary) -> Iterator[str]:
    names = sorted(entry.symbol.name for entry in module.dyld_exports_trie.exports)
    if names != ["_PyInit__core"]:
        yield f"exports: expected _PyInit__core alone, found {names}"


def check_shaders(image: bytes) -> Iterator[str]:
    """Every line of the shaders, as tools/msl writes them for Metal, is embedded."""
    sources = shader_files(ROOT / "shaders")
    if not sources:
        yield "shaders: there are none in this checkout"
    for line in instantiate(flatten(sources)).splitlines():
        if line.encode() not in image:
            yield f"shaders: {line!r} is not embedded"


def check_content(image: bytes, module: lief.MachO.Binary) -> Iterator[str]:
    """Nothing of this machine or of the test framework is inside."""
    for path in (str(ROOT), f"{Path.home()}/", f"{tempfile.gettempdir()}/", sys.prefix):
        if path.encode() in image:
            yield f"content: the build path {path} is inside"
    if re.search(rb"stand.?in", image, re.IGNORECASE):
        yield "content: mentions the stand-in"
    defined = module.get_section("__objc_classlist")
    if defined is not None and defined.size:
        yield "content: defines Objective-C classes, as only the stand-in does"


def check_signed(image: bytes, module: lief.MachO.Binary) -> Iterator[str]:
    signature = module.code_signature
    if signature is None:
        yield "signature: there is none"
        return
    try:
        check_signature(image, signature.data_offset, signature.data_size)
    except ValueError as error:
        yield f"signature: {error}"


def check_module(image: bytes) -> Iterator[str]:
    slices = lief.MachO.parse(list(image))
    if slices is None or slices.size != 1:
        yield "header: not one Mach-O image"
        return
    module = slices.at(0)
    yield from check_header(module)
    yield from check_libraries(module)
    yield from check_exports(module)
    yield from check_content(image, module)
    yield from check_shaders(image)
    yield from check_signed(image, module)


def problems(wheel: Path) -> list[str]:
    """All that is wrong with the wheel; each line opens with the check that says so."""
    found = [*check_tag(wheel), *check_files(wheel)]
    with zipfile.ZipFile(wheel) as archive:
        if module_name() in archive.namelist():
            info = archive.getinfo(module_name())
            if not info.external_attr >> 16 & 0o111:
                found.append("files: the module is not executable")
            found += check_module(archive.read(info))
    return found


def main(wheel: Path) -> int:
    found = problems(wheel)
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"{wheel.name}: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
