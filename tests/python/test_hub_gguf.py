"""GGUF models of a hub, by repository and quantisation, against a small hub on loopback."""

import json
import os

import pytest

import moeflux
from moeflux import hub
from moeflux.gguf import choice
from support import gguf_twin
from support.commands import run_moeflux
from support.fake_hub import FakeHub
from support.few import few

REPO = "org/tiny-GGUF"
SMALL = ["--memory", "128MB", "--context", "64", "-n", "3", "--json"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two quantisations, one of them in several files, and what else such repositories hold."""
    root = tmp_path_factory.mktemp("hub")
    (root / "repo").mkdir()
    for kind, split in (("Q8_0", 0), ("Q4_0", 16)):
        (root / kind).mkdir()
        gguf_twin.make(root / kind, "qwen3_moe", kind, split=split)
        for file in (root / kind).glob("*.gguf"):
            file.rename(root / "repo" / file.name.replace("model", f"tiny-{kind}"))
    (root / "repo/mmproj-F16.gguf").write_bytes(b"GGUF")
    (root / "repo/README.md").write_text("words")
    return root / "repo"


@pytest.fixture
def fake(folder):
    with FakeHub(REPO, {"main": folder}) as server:
        yield server


@pytest.fixture
def run(fake, tmp_path):
    def run(*args):
        environment = os.environ | {"HF_ENDPOINT": fake.url, "HF_HOME": str(tmp_path / "hf")}
        return run_moeflux(*args, env=environment)

    return run


def test_a_quantisation_is_fetched_alone_and_runs_without_the_hub_afterwards(
    fake, folder, run, monkeypatch
):
    done = run("generate", "abc", "-m", f"{REPO}:Q8_0", *SMALL)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["revision"] == fake.commits["main"]
    assert set(fake.fetched) == {"tiny-Q8_0.gguf"}
    model = moeflux.load(folder / "tiny-Q8_0.gguf", memory="128MB", context=64)
    assert answer["text"] == moeflux.generate(model, "abc", max_tokens=3, temperature=0)
    fake.fetched.clear()
    again = run("generate", "abc", "-m", f"{REPO}:Q8_0", "--offline", *SMALL)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["text"] == answer["text"] and not fake.fetched
    monkeypatch.setattr(type(fake), "url", "http://127.0.0.1:9")
    again = run("generate", "abc", "-m", f"{REPO}:Q8_0", *SMALL)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["text"] == answer["text"]
    assert "not here yet" not in run("info", f"{REPO}:Q8_0").stdout


def test_info_reads_the_head_of_a_file_alone_of_all_files_of_a_split_one(fake, folder, run):
    done = run("info", f"{REPO}:q4_0", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    n_files = len(list(folder.glob("tiny-Q4_0-*.gguf")))
    assert facts["files"] == n_files > 1 and not facts["is_local"]
    assert facts["family"] == "qwen3_moe" and facts["expert_bits"] == 4
    assert sum(fake.fetched.values()) == len(fake.ranges) == n_files
    assert all("Q4_0" in name for name in fake.fetched)


def test_without_a_name_the_models_there_are_listed(fake, run):
    for command in (["info"], ["generate", "abc", "-m"]):
        done = run(*command, REPO)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert "tiny-Q4_0-00001-of-" in last and "tiny-Q8_0.gguf" in last and "mmproj" not in last
    assert not fake.fetched


def test_a_hub_that_sends_whole_files_for_parts_is_refused(fake, run):
    fake.ignores_ranges = True
    done = run("info", f"{REPO}:Q8_0")
    assert done.returncode == 1
    assert (
        "expected status 206, of a part of org/tiny-GGUF/tiny-Q8_0.gguf, found 200" in done.stderr
    )


@pytest.mark.parametrize(
    "name", few(1, ["a/../../tiny-Q6_K.gguf", "../tiny-Q6_K.gguf", "/tiny-Q6_K.gguf"])
)
def test_a_listed_name_that_leaves_its_folder_is_none(fake, run, name):
    fake.listed = [name]
    for command in (["info"], ["generate", "abc", "-m"]):
        done = run(*command, f"{REPO}:Q6_K")
        assert done.returncode == 1 and not any("Q6_K" in path for path in fake.paths)
        assert "'Q6_K', which names 0 of them" in done.stderr and name not in done.stderr


def test_each_quantisation_that_was_fetched_is_listed(folder, run):
    for label in ("Q8_0", "Q4_0"):
        assert run("models", "get", f"{REPO}:{label}").returncode == 0
    said = json.loads(run("models", "--json").stdout)["models"]
    found = {row["name"]: row for row in said if row["kind"] == "downloaded"}
    size = (folder / "tiny-Q8_0.gguf").stat().st_size
    assert found[f"{REPO}:tiny-Q8_0.gguf"]["bytes"] == size
    assert {row["format"] for row in found.values()} == {"Q8_0", "Q4_0"}
    name = next(name for name in found if "Q4_0" in name)
    assert run("generate", "abc", "-m", name, "--offline", *SMALL).returncode == 0
    assert "one model of it" in run("models", "remove", name, "-y").stderr
    assert run("models", "remove", REPO, "-y").returncode == 0


NAMES = ["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m-IQ4_XS.gguf", "Q8_0/m-Q8_0-00001-of-00002.gguf",
         "Q8_0/m-Q8_0-00002-of-00002.gguf", "mmproj-m-Q8_0.gguf", "config.json"]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("Q4_K_M", NAMES[:1]),
        ("UD-Q4_K_M", NAMES[1:2]),
        ("iq4_xs", NAMES[2:3]),
        ("m-IQ4_XS.gguf", NAMES[2:3]),
        ("Q8_0", NAMES[3:5]),
        ("m-Q8_0-00002-of-00002.gguf", NAMES[3:5]),
        ("", "no name of one"),
        ("Q6_K", "'Q6_K', which names 0 of them"),
        ("K_M", "'K_M', which names 0"),
    ],
)
def test_a_label_names_one_model(label, expected):
    if isinstance(expected, list):
        assert choice.choose(NAMES, label, REPO) == expected
    else:
        with pytest.raises(moeflux.FormatError, match=expected):
            choice.choose(NAMES, label, REPO)


def test_a_folder_of_one_gguf_model_is_that_model(folder, tmp_path):
    for file in folder.glob("tiny-Q4_0*"):
        (tmp_path / file.name).symlink_to(file)
    model = moeflux.load(tmp_path, memory="64MiB", context=32)
    assert model.path.name.startswith("tiny-Q4_0-00001-of-")
    (tmp_path / "model.safetensors").touch()  # then the folder is the model
    assert hub.local(tmp_path) == tmp_path
    with pytest.raises(moeflux.FormatError, match=r"tiny-Q8_0\.gguf"):
        moeflux.load(folder)


def test_a_split_that_is_missing_is_named(folder, tmp_path):
    for file in sorted(folder.glob("tiny-Q4_0*"))[:-1]:
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(moeflux.IoError, match=r"found no file \d.*No such file"):
        moeflux.load(tmp_path)
