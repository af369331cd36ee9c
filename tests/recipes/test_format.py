"""Whoever follows the recipe for a weight format has one that models compute with.

The recipe is that of CONTRIBUTING.md: in a copy of the tree the two files that it names get a row
and a transcoder, and nothing else changes. The copy's core is built here, without optimisation.
"""

import os
import re
from pathlib import Path

import pytest

from support import recipes

ADDED = recipes.ROOT / "tests/recipes/format"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The Python folder of a tree that has the added format, its core beside it."""
    recipe, tree = recipes.recipe("Add a weight format"), tmp_path_factory.mktemp("tree")
    files = re.findall(r"^\d\. `([\w./]+)`", recipe, re.M)
    assert files == ["csrc/base/format.cpp", "csrc/base/transcoders.h"]
    recipes.copy(tree)
    table, transcoders = (tree / file for file in files)
    begin, rows = table.read_text().split("constexpr Format kFormats[] = {")
    table.write_text(
        begin
        + "constexpr Format kFormats[] = {"
        + rows.replace("\n};", "\n" + (ADDED / "row.txt").read_text() + "};", 1)
    )
    end = "}  // namespace moeflux::quant"
    transcoders.write_text(transcoders.read_text().replace(
        end, (ADDED / "transcoder.txt").read_text() + end))  # fmt: skip
    return recipes.build(tree)


def test_an_added_format_computes_as_numpy_says(package, tmp_path):
    program = Path(__file__).with_name("format_program.py")
    path = os.pathsep.join(map(str, (package, recipes.ROOT / "tests")))  # for the oracle
    assert "followed" in recipes.script(package, program, tmp_path, PYTHONPATH=path)
