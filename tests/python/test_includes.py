"""Rooms of csrc depend downwards only (docs/architecture.md)."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
ALLOWED = {
    "bindings": {"bindings", "engine", "sampling", "model", "store", "ops", "device", "io", "base"},
    "engine": {"engine", "sampling", "model", "store", "ops", "io", "base"},
    "sampling": {"sampling", "base"},
    "model": {"model", "store", "ops", "io", "base"},
    "store": {"store", "io", "base"},
    "ops": {"ops", "device", "base"},
    "device": {"device", "base"},
    "io": {"io", "base"},
    "base": {"base"},
}
SHARED = "../../../shaders/arguments.h"  # what shaders and host both read
SOURCES = sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cpp", ".inc", ".mm"))


def test_the_rooms_are_the_ones_that_the_rule_knows():
    assert {path.name for path in CSRC.iterdir()} == set(ALLOWED)
    assert SOURCES


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CSRC)))
def test_no_file_includes_a_higher_room(path):
    room = path.relative_to(CSRC).parts[0]
    for included in re.findall(r'#include "([^"]+)"', path.read_text()):
        assert included.split("/")[0] in ALLOWED[room] or included == SHARED, included
        if room in ("model", "engine"):  # the contract of ops, no implementation
            assert not included.startswith(("ops/cpu/", "ops/gpu/")), included


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(CSRC)))
def test_only_bindings_know_pybind11(path):
    if path.relative_to(CSRC).parts[0] != "bindings":
        assert "pybind11" not in re.sub(r"//.*", "", path.read_text())
