"""Whoever follows the recipe for a kernel has one that the doctor checks.

The recipe is that of docs/kernels.md: a copy of the tree gets the two files that it names, and
nothing else. The copy's core is built here, without optimisation.
"""

import shutil

import pytest

from support import recipes

ADDED = recipes.ROOT / "tests/recipes/kernel"  # the files that add negate_f32, at their places
PROGRAM = """
import pytest
assert "negate_f32" in moeflux.Backend("host").kernels
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/kernels", "--kernel", "negate_f32"]))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with a moeflux that has the added kernel."""
    tree = tmp_path_factory.mktemp("tree")
    recipes.copy(tree)
    shutil.copytree(ADDED, tree, dirs_exist_ok=True)
    return recipes.build(tree)


def test_an_added_kernel_is_checked_against_its_oracle(package):
    output = recipes.python(package, PROGRAM, MOEFLUX_TEST_DEVICES="host")
    assert "6 passed" in output, output
