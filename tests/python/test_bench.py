"""`moeflux bench`: what it counts is what was done; no time is asserted."""

import json

import pytest

from support.commands import run_moeflux


def bench(*args):
    return run_moeflux("bench", *args)


def test_every_combination_is_run_and_counted(tmp_path):
    plot = tmp_path / "plot.svg"
    done = bench("--memory", "20MB,60MB", "--threads", "1", "--sequences", "1,2", "--prompt", "32",
                 "-n", "8", "--warmup", "2", "--no-read-ahead", "--json",
                 "--plot", str(plot))  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    settings = [(r["setting"]["memory"], r["setting"]["sequences"]) for r in report["runs"]]
    assert settings == [("20MB", 1), ("20MB", 2), ("60MB", 1), ("60MB", 2)]
    for run in report["runs"]:
        decode, n = run["decode"], run["setting"]["sequences"]
        assert decode["tokens"] == 8 * n and run["prefill"]["tokens"] == 32 * n
        assert decode["hits"] + decode["misses"] > 0
        assert sum(decode["share_of_time"].values()) == pytest.approx(1, abs=0.05)
        assert decode["bytes_read"] == decode["misses"] * 34_560
        assert decode["share_of_bound"] > 0
    small, large = report["runs"][0], report["runs"][2]
    assert small["decode"]["misses"] > large["decode"]["misses"]
    assert "<svg" in plot.read_text()


def test_a_block_to_share_has_numbers_and_no_path(tmp_path):
    done = bench("--memory", "60MB", "--prompt", "4", "-n", "2", "--warmup", "1", "--share")
    assert done.returncode == 0, done.stderr
    block = done.stdout.partition("```text\n")[2].partition("```")[0]
    assert "tokens/s" in block and "disk_gb_per_second" in block and "model: demo" in block
    assert "/" not in block.replace("tokens/s", "") and len(block) < 600


@pytest.mark.full
def test_a_device_is_named_and_what_it_was_handed_is_counted():
    args = ("--device", "host", "--memory", "30MB", "--prompt", "2", "--warmup", "1")
    done = bench(*args, "-n", "2", "--json")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["setting"]["device"] == "host" and run["device_name"].startswith("shaders on the")
    per_token = run["decode"]["per_token"]
    # 3, in six layers with a delta net 16 and in two with attention 13, in each 2 for every group
    # in which the 4 experts came, and 3 for each but the first while guesses are made
    # (docs/kernels.md).
    least = 3 + 6 * 16 + 2 * 13
    assert least + 8 * 2 <= per_token["dispatches"] <= least + 8 * 8 + 7 * 3
    assert per_token["waits"] == 9 and 9 <= per_token["commits"] <= 17
    text = bench(*args, "-n", "1").stdout
    assert "host, a token: " in text and " dispatches" in text and "no GPU's speed" in text


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--threads", "many"], "--threads"),
        (["--sequences", "0"], "--sequences"),
        (["--precision", "float8"], "float8"),
        (["--memory", "1MB"], "memory"),
        (["--text", "/nowhere"], "/nowhere"),
        (["--text", "/dev/null"], "token"),
        (["--memory", "60MB,1MB"], "memory"),
        (["--threads", "1,500"], "256"),
        (["-n", "0"], "--tokens"),
        (["--device", "cuda"], "cuda"),
        (["--device", "host", "--precision", "int8"], "float32"),
        (["--prompt", "-3"], "--prompt"),
    ],
)
def test_bad_settings_are_one_sentence(args, word):
    done = bench(*args)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(lines) == 1 and word in lines[0]
