"""What `convert` is asked for: settings, rules, and its command."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import moeflux
from moeflux.converting import Settings, convert
from moeflux.converting.settings import Codes
from moeflux.synth import Recipe, synthesize
from oracle import build
from support import tensors
from support.commands import run_moeflux
from support.folders import config_of, digest

ROOM = {"memory": "256MiB", "context": 64}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 7}, "--bits: expected 2, 3, 4, 5, 6 or 8, found 7"),
        ({"experts_bits": 1}, "--experts-bits: expected 2, 3, 4, 5, 6 or 8, found 1"),
        ({"group": 16}, "--group-size: expected 32, 64 or 128, found 16"),
        ({"dtype": "float8"}, "--dtype: expected float32, float16 or bfloat16, found 'float8'"),
        ({"rules": ("lm_head",)}, "PATTERN=BITS, .*found 'lm_head'"),
        ({"rules": ("lm_head=9",)}, "rule lm_head=9: expected 2, 3"),
        ({"rules": ("lm_head=4:48",)}, "rule lm_head=4:48: expected 32, 64 or 128, found 48"),
        ({"rules": ("lm_head=four",)}, "PATTERN=BITS"),
    ],
)
def test_settings_that_are_none_are_refused_by_name(settings, words):
    with pytest.raises(moeflux.FormatError, match=words):
        Settings(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 4.0}, r"--bits: expected .*found 4\.0"),
        ({"experts_bits": 4.0}, r"--experts-bits: expected .*found 4\.0"),
        ({"group": 64.0}, r"--group-size: expected .*found 64\.0"),
        ({"bits": [4]}, r"--bits: expected .*found \[4\]"),
        ({"dtype": ["float16"]}, r"--dtype: expected .*found \['float16'\]"),
        ({"rules": (3,)}, "--rule: expected PATTERN=BITS, .*found 3"),
        ({"rules": "lm_head=4"}, "rules: expected texts, found 'lm_head=4'"),
        ({"rules": None}, "rules: expected texts, found None"),
    ],
)
def test_settings_of_other_types_are_refused_by_name(settings, words):
    with pytest.raises(moeflux.FormatError, match=words):
        Settings(**settings)


def test_settings_of_other_forms_are_the_same():
    found = Settings(np.int64(3), np.int64(5), np.int64(32), ["lm_head=4"])
    assert json.loads(json.dumps(found.note())) == Settings(3, 5, 32, ("lm_head=4",)).note()


def test_a_rule_without_a_group_has_that_of_the_others():
    found = Settings(group=32, rules=("lm_head=6", "*.mlp.*=5:128", "norm=plain"))
    assert [rule.codes for rule in found.parsed] == [Codes(6, 32), Codes(5, 128), None]
    assert found.usual == Codes(4, 32)


def test_arguments_are_refused_by_name(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    for args, words in (
        ((3, "target"), "source: expected a path, found 3"),
        ((source, None), "target: expected a path, found None"),
        ((source, tmp_path / "a", 4), "settings: expected .*Settings, found 4"),
    ):
        with pytest.raises(moeflux.FormatError, match=words):
            convert(*args)
    found = convert(str(source), str(tmp_path / "found"))
    assert found == tmp_path / "found"


def test_a_wanted_dtype_counts_where_codes_are_kept(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "mlx-q4", 3)
    target = convert(source, tmp_path / "target", Settings(4, dtype="float32"))
    ours, theirs = tensors.of(target), tensors.of(source)
    matrices = [name for name, (dtype, *_) in theirs.items() if dtype == "U32"]
    assert len(matrices) > 20
    for name in matrices:
        assert ours[name] == theirs[name] or ".gate." in name
        for part in ("scales", "biases"):
            other = name.removesuffix("weight") + part
            wide, narrow = ours[other], theirs[other]
            assert (wide[0], narrow[0]) == ("F32", "BF16")
            words = np.frombuffer(narrow[2], "<u2").astype("<u4") << 16
            assert np.frombuffer(wide[2], "<u4").tolist() == words.tolist()


def test_of_several_rules_the_last_one_counts_and_none_is_for_nothing(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    rules = ("*=3", "*.mlp.*=5:32", "layers.1.mlp.switch_mlp.up_proj=plain")
    found = convert(source, tmp_path / "found", Settings(rules=rules))
    said = config_of(found)["quantization"]
    assert said["lm_head"] == {"group_size": 64, "bits": 3}
    assert said["model.layers.0.mlp.gate"] == {"group_size": 32, "bits": 5}
    assert said["model.layers.1.mlp.switch_mlp.down_proj"] == {"group_size": 32, "bits": 5}
    assert "model.layers.1.mlp.switch_mlp.up_proj" not in said
    assert moeflux.load(found, **ROOM)
    with pytest.raises(moeflux.FormatError, match=r"pattern of names.*found 'lm_haed=6'"):
        convert(source, tmp_path / "other", Settings(rules=("lm_haed=6",)))
    assert not (tmp_path / "other").exists()


def run(*args):
    return run_moeflux("convert", *args, env=os.environ | {"COLUMNS": "80"})


def test_the_command_converts_and_says_where(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    target = tmp_path / "found"
    done = run(source, target, "--bits", 6, "--experts-bits", 3, "--group-size", 32,
               "--rule", "lm_head=8:64", "--rule", "o_proj=plain", "--threads", 2)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{target}\n"), done.stderr
    assert "converted" in done.stderr and "verified" in done.stderr
    assert "bits a number]" in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 78
    settings = Settings(6, 3, 32, ("lm_head=8:64", "o_proj=plain"))
    expected = digest(convert(source, tmp_path / "expected", settings))
    assert digest(target) == expected
    for args in ([source, source], [tmp_path, target], [source, target, "--bits", 7],
                 [source, target, "--threads", 0]):  # fmt: skip
        done = run(*args)
        assert done.returncode == 1 and done.stderr.startswith("moeflux: ")
        assert done.stderr.count("\n") == 1


def test_interrupted_by_hand_it_says_how_to_go_on(tmp_path):
    source = synthesize(tmp_path / "source", Recipe("small", 8, ("num_experts=64",)))
    code = (
        "import sys, signal, os, moeflux.cli as cli;"
        "from moeflux.packing import read_back; original = read_back.checksums;"
        "read_back.checksums = lambda *a: (os.kill(os.getpid(), signal.SIGINT), original(*a))[1];"
        "sys.argv[1:] = ['convert', *sys.argv[1:], '--bits', '3']; cli.main()"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert "goes on from here" in done.stderr and "Traceback" not in done.stderr
    assert run(source, tmp_path / "found", "--bits", 3).returncode == 0
