"""Rooms of python/moeflux depend downwards only (the table in docs/architecture.md)."""

import ast
import graphlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.few import few

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python/moeflux"
PAGE = (ROOT / "docs/architecture.md").read_text()


def table():
    """The room of each file or folder of the package, and the rooms that each room imports."""
    section = PAGE.split("## Rooms of the Python package")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| (`[^|]+`) \| ([^|]*)\|", section, re.M)
    files = [(name, room) for room, names, _ in rows for name in re.findall(r"`(\w+)`", names)]
    assert len(files) == len(dict(files))
    every = {room for room, _, _ in rows}
    allowed = {
        room: every if "all others" in below else {room, *re.findall(r"\w+", below)}
        for room, _, below in rows
    }
    return dict(files), allowed


def modules(package):
    """Dotted names below the package and their files; a folder has the name of its __init__."""
    paths = [path for path in package.rglob("*.py*") if path.suffix in (".py", ".pyi")]
    names = [".".join(path.relative_to(package).with_suffix("").parts) for path in paths]
    return {re.sub(r"\.__init__$", "", n): path for n, path in zip(names, paths, strict=True)}


def imports(name, path, known):
    """The modules that a file imports, wherever and for whatever it does so."""
    above = name.split(".") if name != "__init__" else []
    if path.name != "__init__.py":
        above.pop()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "moeflux" for alias in node.names), path
        if isinstance(node, ast.ImportFrom) and node.level:
            source = above[: len(above) + 1 - node.level] + (node.module or "").split(".")
            source = ".".join(filter(None, source))
            for alias in node.names:
                within = f"{source}.{alias.name}".lstrip(".")
                yield within if within in known else source or "__init__"


def graph(package):
    known = modules(package)
    return {
        name: {to for to in imports(name, path, known) if to in known}
        for name, path in known.items()
    }


def upward(package):
    """Pairs of files of which the first may not import the second."""
    rooms, allowed = table()
    room = {name: rooms[name.split(".")[0]] for name in modules(package)}
    return [
        (name, to)
        for name, found in graph(package).items()
        for to in found
        if room[to] not in allowed[room[name]]
    ]


def circle(package):
    """The names of files that import each other in a ring, or None."""
    try:
        graphlib.TopologicalSorter(graph(package)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def test_every_file_has_a_room():
    assert {name.split(".")[0] for name in modules(PACKAGE)} == set(table()[0])


def test_no_file_imports_a_higher_room():
    assert upward(PACKAGE) == []


@pytest.mark.parametrize("package", ["python/moeflux", "tools/msl"])
def test_no_files_import_each_other(package):
    assert circle(ROOT / package) is None


PLANTED = [
    ("model.py", "from .planning import plan", ("model", "planning.plan"), None),
    ("memory.py", "def late():\n    from . import __version__", ("memory", "__init__"), None),
    (
        "gpu/device.py",
        "from ..families.config import Config",
        ("gpu.device", "families.config"),
        None,
    ),
    ("gpu/buffer.py", "if TYPE_CHECKING:\n    from .backend import Backend", None, "gpu.backend"),
    ("planning/__init__.py", "from . import plan", None, None),
    ("planning/steady.py", "from . import plan", None, "planning.plan"),
]


@pytest.mark.parametrize(("file", "line", "up", "ring"), few(3, PLANTED))
def test_planted_imports_are_found(tmp_path, file, line, up, ring):
    skip = shutil.ignore_patterns("demo", "__pycache__")
    package = shutil.copytree(PACKAGE, tmp_path / "moeflux", ignore=skip)
    with (package / file).open("a") as stream:
        stream.write(f"\n{line}\n")
    assert upward(package) == ([up] if up else [])
    if not up:
        assert ring in (circle(package) or [None])


def test_loading_and_stepping_import_no_room_that_they_do_not_need():
    script = (
        "import sys, moeflux;"
        "model = moeflux.load(memory='24MiB', context=64);"
        "model.session().step([1, 2, 3]);"
        "print(*{name.split('.')[1] for name in sys.modules if name.startswith('moeflux.')})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rooms, _ = table()
    found = {rooms[name] for name in done.stdout.split()}
    assert found == {"base", "checkpoint", "device", "model", "sampling", "spec", "templates"}
