"""Files that are whole or absent, and the note by which a command knows its own folder."""

import json
import os

import pytest

import moeflux
from moeflux import durable
from moeflux.packing import pack
from moeflux.synth import Recipe, synthesize
from oracle import build

WANTED = {"version": 1, "seed": 3}


class Cut(BaseException):
    """Stands for kill -9."""


def claim(folder, wanted=WANTED):
    durable.claim(folder, "note.json", wanted, "tool", "thing")


@pytest.mark.parametrize("begun", ["", '{"vers', json.dumps(WANTED)])
def test_a_claim_cut_before_its_note_has_a_name_is_taken_up(tmp_path, begun):
    (tmp_path / ("note.json" + durable.PART)).write_text(begun)
    claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.json"]
    assert json.loads((tmp_path / "note.json").read_text()) == WANTED
    claim(tmp_path)


def test_folders_of_others_are_refused_and_left_as_they_are(tmp_path):
    for name in ("mine.txt", "other.json.part"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(moeflux.FormatError, match=r"^\[tool\] expected a new or empty folder"):
            claim(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_a_note_of_something_else_is_named_by_what_differs(tmp_path):
    claim(tmp_path)
    for wanted, words in (({"version": 1, "seed": 4}, "thing: expected seed 4, found 3"),
                          ({"version": 1}, "expected seed None, found 3"),
                          (WANTED | {"a": "x" * 99}, r"expected a 'x{76}\.\.\.")):  # fmt: skip
        with pytest.raises(moeflux.FormatError, match=words):
            claim(tmp_path, wanted)


@pytest.mark.parametrize("command", ["synth", "pack"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_cut_while_it_claims_a_command_goes_on(tmp_path, monkeypatch, command, step):
    """The moments between the folder's creation and its note's final name."""
    target = tmp_path / "target"
    if command == "pack":
        source = build(tmp_path / "source", family="qwen3_moe", form="mlx-q4")

    def run():
        if command == "synth":
            synthesize(target, Recipe("small", 2))
        else:
            pack(source, target)

    def cut(*_):
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(os, step, cut)
        with pytest.raises(Cut):
            run()
    assert [path.suffix for path in target.iterdir()] == [durable.PART]
    run()
    assert (target / "config.json").exists() and not list(target.glob("*.part"))
