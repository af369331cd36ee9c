"""tools/mutants: each listed edit still has its place in the code."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTS = sorted((ROOT / "tools/mutants").glob("*.toml"))


@pytest.fixture
def mutant(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools/mutants")
    return importlib.import_module("mutant")


@pytest.mark.parametrize("listed", LISTS, ids=lambda path: path.stem)
def test_every_edit_changes_the_file_that_it_names(mutant, listed):
    lost = []
    for entry in mutant.read_list(listed)[0]:
        try:
            text = (ROOT / entry.file).read_text()
            changed = entry.edited(text) != text
        except (OSError, mutant.Broken) as error:
            lost.append(f"{entry.file}: {error}")
        else:
            lost += [] if changed else [f"{entry.file}: {entry.old!r} stays as it is"]
    assert not lost


def test_an_edit_whose_code_is_gone_or_stands_twice_is_broken(mutant):
    for text in ("nothing", "a = 1; a = 1"):
        with pytest.raises(mutant.Broken, match="expected 'a = 1' once"):
            mutant.Mutant("file", "a = 1", "a = 2").edited(text)
