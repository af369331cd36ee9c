"""A snapshot names the weights that computed it, not what took their files' place since."""

import os
import shutil

import pytest

import moeflux
from moeflux import FormatError, IoError, Snapshot
from oracle import build


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("identity")
    return [build(path / str(s), family="qwen3_moe", form="mlx-q4", seed=s) for s in (1, 2)]


@pytest.fixture
def loaded(tmp_path, folders):
    """A model, its folder, and the files of other weights of the same sizes."""
    folder = shutil.copytree(folders[0], tmp_path / "m")
    return moeflux.load(folder, memory="64MiB", context=64), folder, folders[1]


def replaced(folder, other):
    for path in other.glob("*.safetensors"):
        shutil.copy(path, folder / "new")
        os.replace(folder / "new", folder / path.name)


def written_to(folder, other):
    for path in other.glob("*.safetensors"):
        shutil.copyfile(path, folder / path.name)


@pytest.mark.parametrize("change", [replaced, written_to])
@pytest.mark.parametrize("asked_before", [False, True])
def test_files_that_changed_after_the_load_are_refused(tmp_path, loaded, change, asked_before):
    model, folder, other = loaded
    session = model.session()
    session.step([1, 2, 3])
    one = session.save()
    one.write(tmp_path / "before") if asked_before else None
    change(folder, other)
    with pytest.raises(FormatError, match=r"expected the file that was loaded, found another"):
        one.write(tmp_path / "s")
    assert not (tmp_path / "s").exists()
    moeflux.load(folder, memory="64MiB", context=64).session().save().write(tmp_path / "s")
    with pytest.raises(FormatError, match=r"expected the file that was loaded, found another"):
        Snapshot.read(model, tmp_path / "s")


def test_files_that_are_gone_are_named(tmp_path, loaded):
    model, folder, _ = loaded
    one = model.session().save()
    one.write(tmp_path / "s")
    path = next(folder.glob("*.safetensors"))
    path.unlink()
    with pytest.raises(IoError, match=f"cannot read: No such file.*{path.name}"):
        one.write(tmp_path / "s")
    with pytest.raises(IoError, match=f"cannot read: No such file.*{path.name}"):
        Snapshot.read(model, tmp_path / "s")
