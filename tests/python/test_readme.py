"""What the README shows works as written."""

import contextlib
import importlib
import io
import json
import re
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


def test_shown_output_is_what_the_command_writes():
    (block,) = re.findall(r"```text\n(\$ moeflux.*?)```", README, re.S)
    command, *expected = block.splitlines()
    prompt = re.search(r'generate "(.*?)"', command)[1]
    options = command.split('"')[2].split()
    done = subprocess.run(
        [sys.executable, "-m", "moeflux.cli", "generate", prompt, *options],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines() == expected[:-1]


def test_the_demos_table_is_that_of_its_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    demo = importlib.import_module("demo")
    results = json.loads(demo.RESULTS.read_text())
    assert demo.with_table(README, results) == README
    results["runs"][0]["hit_rate"] = 0.123
    changed = demo.with_table(README, results)
    assert "| 12 % |" in changed and demo.with_table(changed, results) == changed
