"""The front end refuses what Metal refuses, and says where."""

import re
import shutil
import subprocess

import pytest

from msl.emit_host import emit_host
from msl.emit_table import emit_table
from msl.errors import MslError
from msl.library import parse_library, read_library
from msl.lint import NoClangError, find_clang, lint
from msl.source import shader_files

from .snippets import ACCEPTED, REFUSED_BY_FRONT_END, REFUSED_BY_LINT, kernel


@pytest.fixture(scope="session")
def clang():
    try:
        return find_clang()
    except NoClangError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", REFUSED_BY_FRONT_END)
def test_refused_by_the_front_end(name):
    source, message, line = REFUSED_BY_FRONT_END[name]
    with pytest.raises(MslError, match=message) as caught:
        parse_library(source)
    assert caught.value.file == "snippet.metal"
    assert line is None or caught.value.line == line


@pytest.mark.parametrize("name", REFUSED_BY_LINT)
def test_refused_by_the_lint(name, clang):
    source, message = REFUSED_BY_LINT[name]
    complaints = lint(parse_library(source), clang)
    assert any(re.search(message, complaint) for complaint in complaints), complaints
    if message != "sizes differ":  # a static_assert of the header
        assert all(re.match(r"snippet\.metal:\d+:\d+: ", complaint) for complaint in complaints)


@pytest.fixture(scope="module")
def accepted():
    """One library of all that is accepted: a kernel for each, whose name is the file."""
    text = ""
    for index, (name, source) in enumerate(ACCEPTED.items()):
        assert source.count("snippet.metal") == source.count("void k(") == 1
        text += source.replace("snippet.metal", name).replace("void k(", f"void k{index}(")
    return parse_library(text)


def test_accepted_by_the_lint(accepted, clang):
    assert lint(accepted, clang) == []


def test_accepted_shaders_compile_for_the_host(accepted, tmp_path, repository):
    compiler = shutil.which("c++") or shutil.which("g++")
    for file, text in (("host.cpp", emit_host(accepted)), ("table.cpp", emit_table(accepted))):
        (tmp_path / file).write_text(text)
        command = [compiler, "-std=c++20", "-Wall", "-Wno-unused", "-fsyntax-only"]
        command += ["-Wno-missing-field-initializers", "-I", repository / "csrc", file]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0 and not result.stderr, result.stderr


def test_the_library_passes_the_lint(clang, repository):
    library = read_library(shader_files(repository / "shaders"))
    assert lint(library, clang) == []


def test_a_variable_is_no_call_of_the_function_of_its_name():
    """Else its kernel would take the function's constants."""
    constant = "/// @default 4\nconstant uint Bits [[function_constant(2)]];\n"
    functions = (
        "inline uint begin(uint n) { return n + Bits; }\n"
        "template <int N> inline uint end(uint n) { return begin(n); }\n"
    )
    uses = {
        "uint begin = n; o[i] = begin < 2 ? 1.0f : a[begin];": [],
        "o[i] = a[begin(n)];": ["Bits"],
        "o[i] = a[end<4>(n)];": ["Bits"],
        "uint end = n; o[i] = end < 4 && end > (n) ? 1.0f : 2.0f;": [],
    }
    for body, constants in uses.items():
        (found,) = parse_library(kernel(body, constant + functions)).kernels
        assert [c.name for c in found.constants] == constants, body
