"""Every code block of docs/ runs as written, in order, page by page.

`python` blocks share one namespace a page; `sh` blocks are moeflux commands. Hub ids reach a small
hub on loopback that has a tiny checkpoint under every name. `text` blocks are pictures.
"""

import doctest
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import moeflux.cli
from oracle import build
from support.commands import run_moeflux
from support.fake_hub import FakeHub

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
HUB_IDS = {"mlx-community/Qwen3.6-35B-A3B-4bit"}
SERVED = {"server.md"}  # tests/serve/test_serve_docs.py starts its server first
STDIN = "hello\n/exit\n"  # for chat


def blocks(page):
    return BLOCK.findall(page.read_text())


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("docs")
    folder = build(root / "m", family="qwen3_5_moe", form="mlx-q4")
    with FakeHub("|".join(sorted(HUB_IDS)), {"main": folder}) as server:
        yield server


@pytest.fixture
def run(hub, tmp_path):
    """Runs a Python program, or moeflux with words, in a folder and a process of its own."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    (tmp_path / "work").mkdir()

    def run(*words, program=None):
        if program is None:
            done = run_moeflux(*words, cwd=tmp_path / "work", env=environment, stdin=STDIN)
        else:
            done = subprocess.run(
                [sys.executable, "-c", program], cwd=tmp_path / "work", env=environment,
                text=True, capture_output=True, timeout=300, check=False,
            )  # fmt: skip
        assert done.returncode == 0, (
            f"{words or program}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )

    return run


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_block_says_what_it_is(page):
    for language, _ in blocks(page):
        assert language in ("python", "sh", "text", "json"), f"a block of {language!r}"


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if p.name not in SERVED and any(b[0] in ("python", "sh") for b in blocks(p))],
    ids=lambda p: p.name,
)  # fmt: skip
def test_every_block_runs_as_written(page, run):
    program = ""
    for language, code in blocks(page):
        if language == "sh":
            for line in code.replace("\\\n", " ").splitlines():
                assert line.startswith("moeflux "), f"{page.name}: {line}"
                run(*shlex.split(line)[1:])
        elif language == "python":
            program += code
    if program:
        run(program=program)


def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools/docs/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_python_reference_is_that_of_the_docstrings():
    assert (ROOT / "docs/api.md").read_text() == reference().api(), "run tools/docs/reference.py"


def test_the_table_of_kernels_is_that_of_the_shaders():
    page = (ROOT / "docs/kernels.md").read_text()
    assert page == reference().kernels(), "run tools/docs/reference.py"


def test_the_command_reference_names_every_command_and_option():
    text = (ROOT / "docs/cli.md").read_text()
    for name, command in typer.main.get_command(moeflux.cli.app).commands.items():
        assert f"## `moeflux {name}`" in text
        section = text.split(f"## `moeflux {name}`")[1].split("\n## ")[0]
        for parameter in command.params:
            for option in parameter.opts:
                assert option in section, f"moeflux {name} {option}: run tools/docs/reference.py"


@pytest.mark.parametrize("name", ["Generation", "load", "stream_generate"])
def test_examples_of_docstrings_run(name):
    names = vars(moeflux) | {"model": moeflux.load(memory="24MiB", context=512)}
    for example in doctest.DocTestParser().get_examples(getattr(moeflux, name).__doc__):
        exec(example.source, names)


WRITTEN = [*PAGES, *sorted(ROOT.glob("*.md")), ROOT / "benchmarks/notebook.md"]


def anchors(page):
    """What GitHub calls the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^):]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda p: p.name)
def test_no_line_is_too_long_to_read(page):
    for number, line in enumerate(page.read_text().splitlines(), 1):
        assert len(line) <= 200, f"{page.name}:{number}"


def test_every_test_that_traps_names_exists():
    text = (ROOT / "docs/traps.md").read_text()
    sources = [path for path in (ROOT / "tests").rglob("*.*") if path.suffix in (".py", ".cpp")]
    names = {path.name for path in (*sources, *(ROOT / "tools").rglob("*.py"))}
    code = "\n".join(path.read_text() for path in sources)
    for name in re.findall(r"`[\w/]*?(\w+\.(?:py|cpp))\b", text):
        assert name in names, name
    for name in re.findall(r"::(test_\w+)", text):
        assert f"def {name}(" in code, name
    for name in re.findall(r'"([^"]*)"', text):
        assert f'"{name.removesuffix("...")}' in code, name


def test_the_index_names_every_page():
    index = (ROOT / "docs/README.md").read_text()
    assert [page.name for page in PAGES if f"({page.name})" not in index] == ["README.md"]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="pip brings a cmake of its own")
def test_presets_are_read_by_cmake():
    for kind, names in {"configure": "dev tests asan tsan", "test": "tests asan tsan"}.items():
        listed = subprocess.run(
            ["cmake", f"--list-presets={kind}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert re.findall(r'^  "(\w+)"', listed.stdout, re.M) == names.split()
