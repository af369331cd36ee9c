"""Every family has what the recipe asks for, and whoever follows the recipe has a family.

The recipe is that of CONTRIBUTING.md: a copy of the tree gets the files that it names, and rows,
and nothing else. The copy's core is the installed one.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moeflux import _core, families
from oracle import goldens
from oracle.families import FAMILIES

ROOT = Path(__file__).parents[2]
ADDED = ROOT / "tests/recipes/family"  # the files that make dots.llm1 known, at their places
PAGES = ("docs/models.md", "README.md")
FIRST_TYPES = {build.__module__.rpartition(".")[2]: model_type
               for model_type, build in reversed(families.FAMILIES.items())}  # fmt: skip

# Python that takes moeflux from the path, whatever an editable installation says.
FROM_PATH = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__name__.startswith("ScikitBuild")]
"""
FOLLOWED = """
from pathlib import Path
import numpy as np
import moeflux
from moeflux.packing import pack
from oracle import Reference, build
from oracle.families import FAMILIES

assert Path(moeflux.__file__).is_relative_to(sys.argv[1]), moeflux.__file__
tokens, work = list(range(3, 60, 4)), Path(sys.argv[1]) / "work"
for form in ("hf-f32", "hf-bf16", "mlx-q4"):
    folder = build(work / form, "dots1", form)
    expected = Reference(folder).forward(tokens).logits
    for path in (folder, pack(folder, work / f"{form}-packed")):
        model = moeflux.load(path, memory="64MiB", context=64, max_slots=4)
        found = model.session().step(tokens, all_logits=True)
        worst, mean = FAMILIES["dots1"].tolerance
        error = np.abs(found - expected)
        assert error.max() <= worst and error.mean() <= mean, (form, error.max(), error.mean())
        assert model.stats["misses"] > 4 and np.abs(expected).max() > 1
"""


def test_families_of_product_and_oracle_are_the_same():
    assert FIRST_TYPES.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", FIRST_TYPES)
def test_a_family_has_a_row_in_each_list_of_models(family):
    for page in PAGES:
        assert f"\n| `{FIRST_TYPES[family]}` | " in (ROOT / page).read_text(), page


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_goldens(family):
    for name in (name for name, case in goldens.CASES.items() if case.family == family):
        assert goldens.load(name).case.family == family


@pytest.fixture(scope="module")
def recipe():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return text.split("### Add a family\n")[1].split("\n### ")[0]


@pytest.fixture(scope="module")
def copy(recipe, tmp_path_factory):
    """A copy of the tree after the recipe's step of files."""
    root = tmp_path_factory.mktemp("tree")
    for path in ("python", "tests/oracle"):
        shutil.copytree(ROOT / path, root / path, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "docs").mkdir()
    (root / "tests/python").mkdir()
    for path in ("tests/python/test_families.py", *PAGES):
        shutil.copy(ROOT / path, root / path)
    shutil.copy(_core.__file__, root / "python/moeflux")
    named = re.findall(r"`([\w/]+/<name>\.py)`", recipe)
    files = {path.replace("<name>", "dots1") for path in named}
    assert files == {str(path.relative_to(ADDED)) for path in ADDED.rglob("*.py")}
    for file in files:
        assert not (root / file).exists()
        shutil.copy(ADDED / file, root / file)
    return root


def run(copy, program, *args):
    environment = os.environ | {"PYTHONPATH": f"{copy}/python{os.pathsep}{copy}/tests"}
    return subprocess.run(
        [sys.executable, "-c", FROM_PATH + program, str(copy), *args], env=environment, cwd=copy,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_the_files_of_the_recipe_make_a_family_that_computes_as_the_oracle(copy):
    done = run(copy, FOLLOWED)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_lists_of_models_are_asked_for_a_new_familys_row(copy, recipe):
    test = f"{copy}/tests/python/test_families.py::test_a_family_has_a_row_in_each_list_of_models"
    program = "import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', sys.argv[2]]))"
    before = run(copy, program, test)
    assert before.returncode == 1 and "1 failed" in before.stdout, before.stdout[-2000:]
    row = "\n| `qwen3_moe` |"
    for page in PAGES:
        assert f"`{page}`" in recipe
        text = (copy / page).read_text()
        (copy / page).write_text(text.replace(row, f"\n| `dots1` | dots.llm1 |{row}"))
    after = run(copy, program, test)
    assert after.returncode == 0, after.stdout[-2000:]
