"""Rooms of csrc depend downwards only (docs/architecture.md)."""

import re
from pathlib import Path

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


def room_of(path):
    return path.relative_to(CSRC).parts[0]


def test_no_file_includes_a_higher_room():
    higher = [
        (str(path.relative_to(CSRC)), included)
        for path in SOURCES
        for included in re.findall(r'#include "([^"]+)"', path.read_text())
        if included.split("/")[0] not in ALLOWED[room_of(path)] and included != SHARED
    ]
    assert not higher


def test_models_and_the_engine_know_the_contract_of_ops_and_no_implementation():
    known = [
        (str(path.relative_to(CSRC)), included)
        for path in SOURCES
        for included in re.findall(r'#include "(ops/[cg]pu/[^"]+)"', path.read_text())
        if room_of(path) in ("model", "engine")
    ]
    assert not known


def test_only_bindings_know_pybind11():
    knowing = [
        str(path.relative_to(CSRC))
        for path in SOURCES
        if room_of(path) != "bindings" and "pybind11" in re.sub(r"//.*", "", path.read_text())
    ]
    assert not knowing
