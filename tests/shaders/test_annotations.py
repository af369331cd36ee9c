"""Annotations: what they say is in the table, what is wrong is refused at its line."""

import re

import pytest

from msl.emit_source import emit_source
from msl.emit_table import emit_table
from msl.errors import MslError
from msl.expressions import ExpressionError, evaluate, parse
from msl.library import parse_library, read_library
from msl.source import flatten, shader_files

from .snippets import HEAD

BODY = (
    "kernel void k(device float* o [[buffer(0)]], device const uint* at [[buffer(1)]], "
    "constant uint& n [[buffer(2)]], constant float& s [[buffer(3)]]) { o[0] = D + at[0] + s; }\n"
)
EMPTY = "kernel void k(device float* o [[buffer(0)]]) {}\n"
CONSTANT = "/// @default 9\nconstant uint D [[function_constant(2)]];\n"


def one_kernel(*notes: str):
    notes = ("@elements o n", "@elements at 1", "@threadgroup any", *notes)
    text = "".join(f"/// {note}\n" for note in notes)
    return parse_library(HEAD + CONSTANT + text + BODY).kernels[0]


REFUSED = {
    "@element o n": "@element is no annotation",
    "@elements o 2": "said twice",
    "@elements out n": "no buffer out",
    "@elements n 1": "no buffer n",
    "@elements o[1] n": "no buffer o0",
    "@grid m": "no scalar or function constant m",
    "@grid s": "s is no u32 scalar",
    "@grid o": "o is no u32 scalar",
    "@grid grid": "grid is not known here",
    "@grid groups": "groups is not known here",
    "@default_threadgroup threads": "threads is not known here",
    "@grid n +": "expected a value",
    "@grid (n": r"expected \), found",
    "@grid n n": "expected the end",
    "@grid n ? 1": "expected :",
    "@grid 1.5": "cannot read",
    "@grid 010": "cannot read",
    "@grid -1": "expected a value",
    "@grid pow(n, 2)": "no function pow of 2",
    "@grid min(n)": "no function min of 1",
    "@grid len(n)": "no buffer n",
    "@grid len(1)": "takes the name of a buffer",
    "@grid maxof(o)": "o is no u32 buffer",
    "@threadgroup 256": "said twice",
}


@pytest.mark.parametrize("note", REFUSED)
def test_refused_at_its_line(note):
    with pytest.raises(MslError, match=REFUSED[note]) as caught:
        one_kernel(note)
    assert caught.value.line == 8


UNKNOWN = ["0", "100", "2048", "few", "multiple of 16", "", "any up to 100", "256 up to 512"]


@pytest.mark.parametrize("threads", [*UNKNOWN, "any up to ", "up to 64"])
def test_threadgroups_that_do_not_exist(threads):
    with pytest.raises(MslError, match="@threadgroup"):
        parse_library(f"{HEAD}/// @elements o 1\n/// @threadgroup {threads}\n{EMPTY}")


@pytest.mark.parametrize("kind", ["any", "multiple of 32"])
def test_a_largest_threadgroup(kind):
    note = f"{HEAD}/// @elements o 1\n/// @threadgroup {kind}"
    kernels = [parse_library(f"{note}{more}\n{EMPTY}").kernels[0] for more in ("", " up to 96")]
    assert [(k.threadgroup, k.largest_threads) for k in kernels] == [(kind, None), (kind, 96)]


@pytest.mark.parametrize(
    ("notes", "missing"),
    [("/// @threadgroup any\n", "@elements o"), ("/// @elements o 1\n", "@threadgroup")],
)
def test_missing(notes, missing):
    with pytest.raises(MslError, match=f"{missing} .* is missing"):
        parse_library(f"{HEAD}{notes}{EMPTY}")


def test_numbered_buffers_share_a_line():
    names = "device float* o0 [[buffer(0)]], device float* o1 [[buffer(1)]]"
    text = f"{HEAD}/// @elements o[2] 3 + #\n/// @threadgroup any\nkernel void k({names}) {{}}\n"
    sizes = [p.elements for p in parse_library(text).kernels[0].bindings]
    assert sizes == ["add(Wide{3}, Wide{0})", "add(Wide{3}, Wide{1})"]


def test_annotations_belong_to_the_kernel_directly_below():
    with pytest.raises(MslError, match="is missing"):
        parse_library(f"{HEAD}/// @elements o 1\n/// @threadgroup any\n\n{EMPTY}")


def test_a_parameter_may_not_have_the_name_of_a_geometry():
    with pytest.raises(MslError, match="meaning of its own"):
        parse_library(
            f"{HEAD}/// @elements o 1\n/// @threadgroup any\n"
            "kernel void k(device float* o [[buffer(0)]], constant uint& grid [[buffer(1)]]) {}\n"
        )


def test_everything_that_is_said_is_in_the_table():
    kernel = one_kernel(
        "@default_threadgroup min(n, 64)",
        "@grid ceil_div(len(o), 4) * threads",
        "@require n > 0 && n <= maxof(at)",
        "@require D != 0",
    )
    assert kernel.default_threadgroup == "smaller(scalar(call, 2), Wide{64})"
    assert kernel.default_grid == "multiply(ceil_divide(length(call, 0), Wide{4}), threads(call))"
    assert [text for _, text in kernel.requirements] == ["n > 0 && n <= maxof(at)", "D != 0"]
    assert kernel.bindings[1].needs_maximum and not kernel.bindings[0].needs_maximum
    assert [(c.name, c.index, c.default) for c in kernel.constants] == [("D", 2, 9)]


def test_a_scalar_hides_a_function_constant_of_its_name():
    library = parse_library(
        f"{HEAD}{CONSTANT}/// @elements o D\n/// @threadgroup any\n"
        "kernel void k(device float* o [[buffer(0)]], constant uint& D [[buffer(1)]]) "
        "{ o[0] = D; }\n"
    )
    assert library.kernels[0].constants == []
    assert library.kernels[0].bindings[0].elements == "scalar(call, 1)"


@pytest.mark.parametrize(
    ("text", "value"),
    [("2 + 3 * 4", 14), ("(2 + 3) * 4", 20), ("10 - 3 - 2", 5), ("64 / 4 / 2", 8), ("17 % 5u", 2)],
)
def test_constant_expressions(text, value):
    assert evaluate(parse(text), {}) == value
    assert eval(re.sub(r"(\d)u", r"\1", text).replace("/", "//")) == value


@pytest.mark.parametrize("text", ["", "1 +", "1 / 0", "n", "1 < 2", "f(1)", "1 2"])
def test_no_constant_expressions(text):
    with pytest.raises(ExpressionError):
        evaluate(parse(text), {})


def test_two_kernels_of_one_name_are_refused(tmp_path):
    text = (
        "/// @elements o 1\n/// @threadgroup any\nkernel void k(device float* o [[buffer(0)]]) {}\n"
    )
    for file in ("a.metal", "b.metal"):
        (tmp_path / file).write_text(text)
    with pytest.raises(MslError, match=r"b\.metal:3: kernel k is already in a\.metal:3"):
        read_library(sorted(tmp_path.glob("*.metal")))


def test_flattening_inlines_headers_once_and_keeps_places(tmp_path):
    (tmp_path / "one.h").write_text(
        '#pragma once\n#include "two.h"\ninline uint one() { return 1; }\n'
    )
    (tmp_path / "two.h").write_text("#pragma once\n#include <metal_stdlib>\nbroken line;\n")
    (tmp_path / "c").mkdir()
    for file, up in (("a.metal", ""), ("b.metal", ""), ("c/d.metal", "../")):
        (tmp_path / file).write_text(f'#include "{up}two.h"\n#include "{up}one.h"\n// {file}\n')
    text = flatten(shader_files(tmp_path))
    assert text.index("// b.metal") < text.index("// c/d.metal")
    assert text.count("inline uint one") == 1 and text.count("broken line") == 1
    assert "pragma once" not in text and "#include <metal_stdlib>" in text
    with pytest.raises(MslError) as caught:
        parse_library(text)
    assert (caught.value.file, caught.value.line) == ("two.h", 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('#include "nowhere.h"', "no header"),
        ('#include "../a.metal"', "no header"),
        ("#include <cmath>", "only <metal_stdlib>"),
    ],
)
def test_includes_that_are_refused(tmp_path, line, message):
    (tmp_path / "a.metal").write_text(f"// first\n{line}\n")
    with pytest.raises(MslError, match=message) as caught:
        flatten([tmp_path / "a.metal"])
    assert caught.value.line == 2


def test_the_embedded_library_is_the_text_itself():
    text = 'a "quoted"\\ line\n\tindented // comment\n'
    literals = re.findall(r'^ +"(.*)"$', emit_source(text), re.M)
    unescaped = "".join(
        re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), x) for x in literals
    )
    assert unescaped == text


def test_the_table_is_alphabetical(repository):
    library = read_library(shader_files(repository / "shaders"))
    names = re.findall(r'^    \{\.name = "(\w+)", \.file', emit_table(library), re.M)
    assert names == sorted(k.name for k in library.kernels)
