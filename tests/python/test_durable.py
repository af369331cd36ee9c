"""Files that are whole or absent, and the note by which a command knows its own folder."""

import json
import os

import pytest

import moeflux
from moeflux import durable
from moeflux.converting import convert
from moeflux.packing import pack, pieces
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


def test_a_part_is_a_new_file_whoever_has_its_name(tmp_path):
    """A link is not followed, and a run that has the old part open does not reach the new one."""
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_text("mine")
    (tmp_path / "file.part").symlink_to(victim)
    durable.write_text(path, "ours")
    assert (victim.read_text(), path.read_text()) == ("mine", "ours")
    assert not path.is_symlink()
    with durable.new_part(path) as earlier:
        earlier.write(b"of an earlier run")
        with durable.whole_file(path) as stream:
            stream.write(b"whole")
        earlier.flush()
        earlier.write(b"and late")
    assert path.read_bytes() == b"whole"


def test_a_note_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps(WANTED))
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "note.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(moeflux.FormatError, match="symbolic link"):
        claim(tmp_path / "target")


def test_a_folder_has_one_run_at_a_time(tmp_path):
    def run():
        with durable.alone(tmp_path / "new", "tool"):
            return True

    with (
        durable.alone(tmp_path / "new", "tool"),
        pytest.raises(moeflux.IoError, match=r"^\[tool\] expected no other run.*new"),
    ):
        run()
    assert run()


@pytest.mark.parametrize("command", ["convert", "pack"])
def test_links_in_a_target_lead_to_nobody(command, tmp_path):
    source = build(tmp_path / "source", family="qwen3_moe", form="mlx-q4")
    victim, target = tmp_path / "victim", tmp_path / "target"
    victim.write_text("mine")
    target.mkdir()
    run = convert if command == "convert" else pack
    run(source, tmp_path / "whole")
    note = f"{command}.json"
    (target / note).write_bytes((tmp_path / "whole" / note).read_bytes())
    for path in (tmp_path / "whole").iterdir():
        (target / f"{path.name}.part").symlink_to(victim)
    (target / f"{note}.part").unlink()
    run(source, target)
    assert victim.read_text() == "mine"
    assert not any(path.is_symlink() for path in target.iterdir())


def test_two_packs_into_one_folder_are_one_too_many(tmp_path, monkeypatch):
    source = build(tmp_path / "source", family="qwen3_moe", form="mlx-q4")

    def again(*args):
        pack(source, tmp_path / "target")

    with monkeypatch.context() as patch:
        patch.setattr(pieces, "write", again)
        with pytest.raises(moeflux.IoError, match="expected no other run in the folder"):
            pack(source, tmp_path / "target")
    pack(source, tmp_path / "target")
