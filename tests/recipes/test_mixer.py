"""Whoever follows the recipe for a mixer has one that computes, on the CPU and on a device.

The recipe is that of CONTRIBUTING.md: a copy of the core's sources gets the files that it names
and the line, and nothing else. The copy's core is built here, without optimisation.
"""

import re
import shutil
from pathlib import Path

import pytest

from support import recipes

ADDED = recipes.ROOT / "tests/recipes/mixer"  # a short convolution's files, at their places
NAME = "short_convolution"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the moeflux of a tree in which the recipe was followed."""
    recipe, tree = recipes.recipe("Add a mixer"), tmp_path_factory.mktemp("tree")
    recipes.copy(tree)
    named = re.findall(r"`([\w/]+/<name>\.\w+)`", recipe)
    files = {path.replace("<name>", NAME) for path in named}
    assert files == {str(path.relative_to(ADDED)) for path in ADDED.rglob("*.*")}
    for file in files:
        assert not (tree / file).exists()
        shutil.copy(ADDED / file, tree / file)
    assert "`csrc/ops/mixer.h`" in recipe
    header = tree / "csrc/ops/mixer.h"
    text = header.read_text()
    include, line = '#include "ops/mixers/mla.h"\n', r"(using Mixer = [^;]*)>;"
    assert include in text and len(re.findall(line, text)) == 1
    text = text.replace(include, f'{include}#include "ops/mixers/{NAME}.h"\n')
    header.write_text(re.sub(line, r"\1, ShortConvolution>;", text))
    return recipes.build(tree)


def test_an_added_mixer_computes_as_numpy(package, tmp_path):
    program = Path(__file__).with_name("short_convolution.py")
    assert "computes as numpy" in recipes.script(package, program, tmp_path)
