"""examples/tool_loop.py: an agent of a page, with a scripted model."""

import importlib.util
import json
from pathlib import Path

import pytest

from page.browsing import Site
from serve.scripted import ScriptedEngine

PROGRAM = Path(__file__).parents[2] / "examples/tool_loop.py"


@pytest.fixture(scope="module")
def loop():
    spec = importlib.util.spec_from_file_location("tool_loop", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "a.txt").write_text("the version is 7")
    (tmp_path / "secret").write_text("secret")
    return inner


def asks(tool, **arguments):
    call = json.dumps({"name": tool, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


def test_the_model_looks_into_files_and_answers(loop, folder):
    site = Site(ScriptedEngine({
        "Which version?": asks("list_files"),
        "<tool_response>\na.txt": asks("read_file", name="a.txt"),
        "<tool_response>\nthe version is 7": "It is 7.",
    }))  # fmt: skip
    assert loop.answer(site.url, folder, "Which version?") == "It is 7."
    assert len(site.engine.jobs) == 3
    site.end()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", "..", "no", None])
def test_no_file_outside_the_folder_is_opened(name, loop, folder):
    assert loop.call(folder, "read_file", {"name": name}).startswith("there is no")
