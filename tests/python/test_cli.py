"""The command line and the package as a user meets them."""

import json
import os
import re
import signal
import subprocess
import sys
from importlib import metadata

import pytest

import moeflux
from moeflux import memory
from moeflux.terminal import escape_controls
from oracle import build
from support.commands import run_moeflux
from support.few import few

SMALL = ["--memory", "17MB", "--context", "256"]


def test_demo_model_writes_while_half_of_its_experts_fit():
    options = [*SMALL, "--threads", "2"]  # many threads' stacks would take slots' room
    done = run_moeflux("generate", "def main(", *options, "-n", "40", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    stats = answer["stats"]
    assert len(answer["tokens"]) <= 40 and answer["text"].strip()
    assert stats["misses"] > 0 and stats["evictions"] > 0
    assert stats["live_bytes"] <= 17_000_000
    assert 0.3 < stats["slots"] / 320 < 0.7


@pytest.mark.parametrize("way", ["argument", "file", "stdin"])
def test_prompt_comes_from_argument_file_or_stdin(tmp_path, way):
    file = tmp_path / "prompt.txt"
    file.write_text("import os\n")
    args = {"argument": ["import os\n"], "file": ["--file", str(file)], "stdin": []}[way]
    done = run_moeflux("generate", *args, *SMALL, "-n", "8", "--echo", stdin="import os\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("import os\n") and len(done.stdout) > 12
    assert "experts" in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["generate", "x", "-m", "/nowhere/at/all"], ["/nowhere/at/all"]),
        (["generate", "x", "--memory", "lots"], ["12GiB", "lots"]),
        (["generate", "x", "--memory", "1MB"], ["memory"]),
        (["generate", "", *SMALL], ["empty"]),
        (["generate", "x", "--temperature", "-1", *SMALL], ["temperature"]),
        (["info", "/nowhere/at/all"], ["/nowhere/at/all"]),
    ],
)
def test_an_error_is_one_sentence_and_exit_status_one(args, words):
    done = run_moeflux(*args)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("moeflux: ")
    assert all(word in lines[0] for word in words)
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_precision_reaches_the_model(command):
    args = ["x", "-n", "1", "--json"] if command == "generate" else []
    done = run_moeflux(command, *args, *SMALL, "--precision", "int8")
    if command == "generate":
        assert json.loads(done.stdout)["stats"]["precision"] == "int8", done.stderr
    done = run_moeflux(command, *args, *SMALL, "--precision", "float64")
    assert done.returncode == 1 and "float64" in done.stderr


@pytest.mark.parametrize("where", ["argument", "stdin"])
def test_a_prompt_that_is_no_utf_8_is_refused_in_one_sentence(where):
    args = [b"\xff\xfe"] if where == "argument" else []
    for encoding in ("utf-8", "ascii:surrogateescape"):  # what a C locale makes of input
        done = subprocess.run(
            [sys.executable, "-m", "moeflux.cli", "generate", *args, *SMALL, "-n", "1"],
            input=b"\xff\xfe", capture_output=True, timeout=120, check=False,
            env=os.environ | {"PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith(b"moeflux: ") and done.stderr.count(b"\n") == 1


def test_info_shows_family_and_sizes(tmp_path):
    folder = build(tmp_path / "m", family="qwen3_moe", form="mlx-q4")
    done = run_moeflux("info", str(folder))
    assert done.returncode == 0, done.stderr
    assert "qwen3_moe" in done.stdout and "24 a layer, 4 a token" in done.stdout


@pytest.mark.parametrize("command", few(1, ["chat", "generate"]))
@pytest.mark.parametrize(
    ("option", "value", "word"),
    [("-t", "-1", "temperature"), ("-t", "nan", "temperature"), ("--top-p", "0", "top_p"),
     ("--top-k", "-1", "top_k"), ("--min-p", "2", "min_p"), ("--seed", "-1", "seed"),
     ("--repetition-penalty", "0", "repetition_penalty"), ("-n", "-1", "max_tokens")],
)  # fmt: skip
def test_sampling_is_checked_before_a_model_is_loaded(tmp_path, command, option, value, word):
    """The folder holds no model: reading it would be another error."""
    done = run_moeflux(command, "-m", str(tmp_path), option, value, stdin="one\n")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "expected" in done.stderr and word in done.stderr
    assert "checkpoint" not in done.stderr


@pytest.mark.parametrize(
    ("family", "form"),
    [("qwen3_moe", "mlx-q4"), ("qwen3_next", "hf-bf16"), ("qwen3_5_moe", "hf-bf16"),
     ("qwen3_5_moe", "mlx-q4")],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_info_counts_each_byte_once_and_vision_and_mtp_as_ignored(tmp_path, family, form, packed):
    from moeflux.checkpoint import open_checkpoint
    from moeflux.families import build_spec
    from moeflux.packing import pack
    from moeflux.planning.inventory import inventory

    folder = build(tmp_path / "m", family=family, form=form)
    checkpoint = open_checkpoint(folder)
    skipped = [t for name, t in checkpoint.tensors.items() if "mtp." in name or "visual" in name]
    folder = pack(folder, tmp_path / "packed") if packed else folder
    checkpoint = open_checkpoint(folder)
    found = inventory(checkpoint, build_spec(checkpoint))
    of_experts = re.compile(r"(?!mtp\.).*layers\.\d+\.mlp\.(switch_mlp|experts)\.")
    experts = [t for name, t in checkpoint.tensors.items() if of_experts.match(name)]
    total = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    assert found.routed_bytes == sum(tensor.nbytes for tensor in experts) > 0
    assert found.routed_bytes + found.resident_bytes + found.ignored_bytes == total
    if packed:  # nothing of the kind was copied
        assert found.n_ignored == 0
    else:
        assert found.n_ignored == len(skipped)
        assert found.ignored_bytes == sum(tensor.nbytes for tensor in skipped)
    done = run_moeflux("info", str(folder))
    assert ("ignored" in done.stdout) == bool(found.n_ignored)
    assert ("one read an expert" in done.stdout) == packed


def test_help_and_version():
    assert "generate" in run_moeflux("--help").stdout
    assert run_moeflux("--version").stdout.strip() == f"moeflux {moeflux.__version__}"
    assert metadata.version("moeflux") == moeflux.__version__


def test_ctrl_c_ends_a_generation_with_status_130():
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "moeflux.cli", "generate", "def f(", "--memory", "40MB",
         "--context", "4096", "-n", "4000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130 and b"Traceback" not in stderr


def test_an_interrupted_step_leaves_the_session_as_it_was(tmp_path):
    """SIGINT in the middle of a long prompt; the same call again gives the undisturbed result."""
    folder = build(tmp_path / "m", family="qwen3_next", form="mlx-q4", num_hidden_layers=8)
    script = """
import os, signal, sys, threading
import numpy as np, moeflux
def load(): return moeflux.load(sys.argv[1], memory="256MiB", context=4096, threads=2)
tokens = [i * 7 % 250 for i in range(3000)]
expected = load().session().step(tokens)
session = load().session()
timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
timer.start()
try:
    session.step(tokens)
except KeyboardInterrupt:
    assert session.position == 0
    print("interrupted")
    assert np.array_equal(session.step(tokens), expected)
    print("equal")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["interrupted", "equal"], done.stderr


def test_control_characters_of_a_model_are_shown_and_not_obeyed():
    assert escape_controls("a\x1b[2J\x07\x9bb\nc\td\x7f") == "a\\x1b[2J\\x07\\x9bb\nc\td\\x7f"


def test_no_training_framework_is_imported():
    script = (
        "import sys, moeflux; m = moeflux.load(memory='24MiB', context=64);"
        "moeflux.generate(m, 'x', max_tokens=2);"
        "print([n for n in ('torch', 'transformers', 'mlx', 'jax') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_has_a_docstring_and_types_are_shipped():
    for name in moeflux.__all__:
        if name != "__version__":
            assert getattr(moeflux, name).__doc__
    package = os.path.dirname(moeflux.__file__)
    assert {"py.typed", "_core.pyi"} <= set(os.listdir(package))


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("1", 1),
        (12, 12),
        ("12GiB", 12 << 30),
        ("1.5kb", 1500),
        (" 2 MiB ", 2 << 20),
        ("3T", 3 * 10**12),
    ],
)
def test_sizes_are_read_as_people_write_them(text, nbytes):
    assert memory.parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "GiB", "-1", "0", "1 GiBs", "nan", "1e9x"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(moeflux.FormatError, match="size"):
        memory.parse_bytes(text)


def test_auto_budget_is_a_share_of_what_is_available(sole_models, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    assert memory.budget_bytes("auto") == 800
