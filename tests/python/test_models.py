"""`moeflux models`: what is on this disk, what may be removed, downloads that go on."""

import json
import os
import time

import pytest

from oracle import build
from support.commands import run_moeflux
from support.fake_hub import FakeHub

REPO = "org/tiny"
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("hub") / "main", family="qwen3_moe", form="mlx-q4")


@pytest.fixture
def fake(folder):
    with FakeHub(REPO, {"main": folder}) as server:
        yield server


@pytest.fixture
def run(fake, tmp_path):
    """Runs a command in a process of its own: huggingface_hub reads its settings at import."""

    def run(*args, status=0, **environment):
        homes = {"HF_ENDPOINT": fake.url, "HF_HOME": str(tmp_path / "hf"),
                 "XDG_STATE_HOME": str(tmp_path / "state")}  # fmt: skip
        done = run_moeflux(*args, env=os.environ | homes | environment)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def listed(run):
    """What --json says, by name, without what is in the package."""
    said = json.loads(run("models", "--json").stdout)
    rows = [row for row in said["models"] if row["kind"] != "in the package"]
    assert len(said["models"]) == len(rows) + 2
    return {row["name"]: row for row in rows}, said["others"]


def test_without_any_download_there_are_those_of_the_package(run):
    assert listed(run) == ({}, {"count": 0, "bytes": 0})
    assert "demo-chat" in run("models").stdout


def test_a_download_is_listed_with_what_its_files_say(fake, run, folder):
    path = run("models", "get", REPO).stdout.strip()
    (row,) = listed(run)[0].values()
    config = json.loads((folder / "config.json").read_text())
    assert row == {
        "name": REPO, "kind": "downloaded", "family": config["model_type"],
        "format": f"4-bit, groups of {config['quantization']['group_size']}",
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "revision": fake.commits["main"], "path": path, "missing": None,
        "last_used": row["last_used"],
    }  # fmt: skip
    assert abs(row["last_used"] - time.time()) < 3600
    assert REPO in run("models").stdout


def test_looking_is_no_use(run):
    path = run("models", "get", REPO).stdout.strip()
    for name in os.listdir(path):
        os.utime(os.path.join(path, name), (1e9, 1e9))
    for _ in range(2):
        assert listed(run)[0][REPO]["last_used"] == 1e9
    assert "months" in run("models").stdout


def test_a_download_that_broke_off_is_told_and_goes_on(fake, run):
    fake.cut = (SHARD, 100_000)
    run("models", "get", REPO, status=1)
    row = listed(run)[0][REPO]
    assert row["missing"] == "incomplete" and row["family"] == "qwen3_moe" and row["bytes"] > 0
    assert f"moeflux models get {REPO} fetches the rest" in " ".join(run("models").stderr.split())
    fake.cut = None
    fake.fetched.clear()
    run("models", "get", REPO)
    assert dict(fake.fetched) == {SHARD: 1}
    assert listed(run)[0][REPO]["missing"] is None


def test_a_mirror_is_asked_in_place_of_the_hub_and_gets_no_login(fake, run):
    run("models", "get", REPO, "--mirror", fake.url + "/", HF_ENDPOINT="http://127.0.0.1:9",
        HF_TOKEN="hf_secret")  # fmt: skip
    assert REPO in listed(run)[0] and fake.paths
    assert fake.logins == set()
    for wrong in ("", "ftp://a", "/tmp", "http://", "http://[", "https://a?b=c"):
        assert "mirror: expected" in run("models", "get", REPO, "--mirror", wrong, status=1).stderr


def test_a_model_is_removed_after_a_word_and_nothing_else(run, tmp_path):
    run("models", "get", REPO)
    assert "expected --yes" in run("models", "remove", REPO, status=1).stderr
    assert REPO in listed(run)[0]
    other = tmp_path / "hf/hub/datasets--org--tiny"
    (other / "snapshots/0").mkdir(parents=True)
    run("models", "remove", REPO, "--yes")
    assert listed(run)[0] == {} and other.exists()
    assert not (tmp_path / "hf/hub/models--org--tiny").exists()
    assert "found none of this name" in run("models", "remove", REPO, "-y", status=1).stderr


@pytest.mark.parametrize("folder_too", [False, True])
def test_a_download_that_broke_off_at_once_is_listed_and_removed(run, tmp_path, folder_too):
    blobs = tmp_path / "hf/hub/models--org--tiny/blobs"
    blobs.mkdir(parents=True)
    if folder_too:
        (blobs.parent / "snapshots").mkdir()
    (blobs / "abc.incomplete").write_bytes(bytes(1000))
    row = listed(run)[0][REPO]
    assert (row["bytes"], row["missing"], row["family"]) == (1000, "incomplete", None)
    run("models", "remove", REPO, "-y")
    assert listed(run)[0] == {} and not blobs.exists()


def test_what_others_keep_in_the_cache_is_counted_and_not_removed(run, tmp_path):
    for name, config in (("models--org--bert", {"model_type": "bert"}), ("datasets--org--d", {})):
        snapshot = tmp_path / "hf/hub" / name / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps(config))
    rows, others = listed(run)
    assert rows == {} and others["count"] == 2
    assert "2 more" in run("models").stderr
    for name, word in (("org/bert", "found something else"), ("org/d", "found none")):
        assert word in run("models", "remove", name, "-y", status=1).stderr
    assert (tmp_path / "hf/hub/models--org--bert").exists()
    assert (tmp_path / "hf/hub/datasets--org--d").exists()


def test_a_model_of_which_only_the_config_is_here_is_incomplete(fake, run):
    run("info", REPO)
    assert listed(run)[0][REPO]["missing"] == "incomplete" and not fake.fetched[SHARD] > 1


def test_a_damaged_cache_ends_nothing(run, tmp_path):
    run("models", "get", REPO)
    hub = tmp_path / "hf/hub"
    (hub / "models--a--b").write_text("a file")
    (hub / "models--c--d/snapshots").mkdir(parents=True)
    (hub / "models--c--d/snapshots/x").write_text("a file")
    broken = hub / "models--e--f/snapshots" / ("1" * 40)
    broken.mkdir(parents=True)
    (broken / "config.json").symlink_to("nowhere")
    assert list(listed(run)[0]) == [REPO]


def test_folders_that_were_packed_and_converted_are_known_and_can_be_removed(run, folder, tmp_path):
    packed, converted = tmp_path / "packed", tmp_path / "converted"
    run("pack", folder, packed)
    run("convert", folder, converted, "--bits", "8")
    rows = listed(run)[0]
    assert {name: row["kind"] for name, row in rows.items()} == {
        str(packed): "packed", str(converted): "converted"
    }  # fmt: skip
    assert rows[str(converted)]["format"].startswith("8-bit")
    assert rows[str(packed)]["bytes"] == sum(file.stat().st_size for file in packed.iterdir())
    (packed / "mine.csv").write_text("1")
    assert "found mine.csv" in run("models", "remove", packed, "-y", status=1).stderr
    (packed / "mine.csv").unlink()
    run("models", "remove", packed, "-y")
    assert not packed.exists() and list(listed(run)[0]) == [str(converted)]


def test_what_is_not_ours_is_refused_by_name(run, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (folder, tmp_path / "empty", tmp_path, "/"):
        told = run("models", "remove", path, "-y", status=1).stderr
        assert "expected a folder that moeflux pack, convert or synth has written" in told
    for name in ("demo", "demo-chat"):
        assert "in the package" in run("models", "remove", name, "-y", status=1).stderr
    for name in ("../x/y", "no-such-name", ""):
        assert run("models", "remove", name, "-y", status=1).stderr.startswith("moeflux: [")
    assert (folder / "config.json").exists()


def test_a_folder_that_is_being_written_is_not_removed(run, folder, tmp_path):
    from moeflux.durable import alone

    run("pack", folder, tmp_path / "packed")
    with alone(tmp_path / "packed", "test"):
        told = run("models", "remove", tmp_path / "packed", "-y", status=1).stderr
    assert "one at work" in told and (tmp_path / "packed/config.json").exists()


@pytest.mark.parametrize("said", [b"", b"{", b"{}", b"7", b'[7, "x", "/nowhere"]', b"\xff"])
def test_a_damaged_list_of_folders_is_none(run, folder, tmp_path, said):
    (tmp_path / "state/moeflux").mkdir(parents=True)
    (tmp_path / "state/moeflux/folders.json").write_bytes(said)
    assert listed(run)[0] == {}
    run("pack", folder, tmp_path / "packed")
    assert list(listed(run)[0]) == [str(tmp_path / "packed")]
