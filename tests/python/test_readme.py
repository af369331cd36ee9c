"""What the README shows works as written."""

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_python_block_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(compile(code, "README.md", "exec"), {})
    assert len(shown.getvalue()) > 50


def shown():
    """The command of the transcript, and what it wrote, without the lines of numbers."""
    (block,) = re.findall(r"```text\n\$ (\S*moeflux.*?)```", README, re.S)
    command, *lines = block.splitlines()
    return command, lines[:-2]


def test_shown_output_is_what_the_command_writes():
    command, expected = shown()
    done = subprocess.run(
        [sys.executable, "-m", "moeflux.cli", *shlex.split(command)[1:]],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == expected


def test_shown_command_is_what_make_demo_runs():
    planned = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo"],
        cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | {"MAKEFLAGS": ""},
    )  # fmt: skip
    assert planned.stdout.splitlines()[-1] == shown()[0]


def test_the_demos_table_is_that_of_its_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    demo = importlib.import_module("demo")
    results = json.loads(demo.RESULTS.read_text())
    assert demo.with_table(README, results) == README
    results["runs"][0]["hit_rate"] = 0.123
    changed = demo.with_table(README, results)
    assert "| 12 % |" in changed and demo.with_table(changed, results) == changed


def test_packages_and_commands_are_found_for_a_bare_machine():
    listed = subprocess.run(
        [ROOT / ".ci/bare", "--list"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert listed == ["git make g++ python3-venv python3-dev", "make demo", "make test"]


def test_shown_lines_of_numbers_have_the_commands_words_and_fit_80_columns():
    lines = re.findall(r"^\[.*tok.*\]$\n^\[experts.*\]$", README, re.M)[0].splitlines()
    done = subprocess.run(
        [sys.executable, "-m", "moeflux.cli", "generate", "def", "-n", "4", "--memory", "17MB",
         "--context", "64"], capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    written = done.stderr.splitlines()[-2:]
    shown, told = (
        re.sub(r"\d+(\.\d+)?|direct|buffered", "_", "\n".join(text)) for text in (lines, written)
    )
    assert shown == told and max(map(len, lines + written)) <= 80
