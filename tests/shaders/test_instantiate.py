"""Kernel templates: an instantiation is a kernel like one that is written out."""

import pytest

from msl.errors import MslError
from msl.library import parse_library

from .snippets import HEAD

TEMPLATE = (
    "/// @elements x n\n/// @elements o n\n/// @threadgroup any\n"
    "template <typename T>\n"
    "kernel void twice(device const T* x [[buffer(0)]], device float* o [[buffer(1)]],\n"
    "                  constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]]) {\n"
    "  threadgroup T tile[4];\n  const T v = x[i];\n  o[i] = 2.0f * float(v);\n}\n"
)


def instance(name, kind):
    return f'template [[host_name("{name}")]] kernel decltype(twice<{kind}>) twice<{kind}>;\n'


def test_each_instantiation_is_a_kernel_of_its_own_type():
    text = HEAD + TEMPLATE + instance("twice_f16", "half") + instance("twice_f32", "float")
    library = parse_library(text)
    half, single = library.kernels
    assert [half.name, single.name] == ["twice_f16", "twice_f32"]
    assert [p.element for p in half.bindings] == ["half", "float", "uint"]
    assert [p.element for p in single.bindings] == ["float", "float", "uint"]
    assert (half.arrays[0].nbytes, single.arrays[0].nbytes) == (8, 16)
    assert half.bindings[0].elements == single.bindings[0].elements == "scalar(call, 2)"
    assert "const half v = x[i];" in library.text
    assert "template" not in library.text.replace(HEAD, "")


def test_a_number_is_put_in_and_quotients_of_numbers_in_annotations_are_worked_out():
    text = HEAD + TEMPLATE.replace("typename T", "uint T").replace("const T* x", "const float* x")
    text = text.replace("T tile[4]", "float tile[T]").replace("const T v", "const float v")
    text = (
        text.replace("@elements x n", "@elements x n / (32 / T)")
        + instance("k8", "8")
        + instance("k2", "2")
    )
    eight, two = parse_library(text).kernels
    assert eight.bindings[0].elements == "divide(scalar(call, 2), Wide{4})"
    assert two.bindings[0].elements == "divide(scalar(call, 2), Wide{16})"
    assert (eight.arrays[0].nbytes, two.arrays[0].nbytes) == (32, 8)


def test_places_are_those_of_the_template_and_of_what_follows():
    first = HEAD.count("\n")  # HEAD's #line gives the next line number 1
    text = HEAD + TEMPLATE + instance("a", "half") + instance("b", "float")
    library = parse_library(text + "inline float last(float x) { return x; }\n")
    tokens = {t.text: t.line for t in library.tokens}
    assert library.kernels[0].token.line == first + 3
    assert tokens["i"] == first + 8  # in both bodies
    assert tokens["last"] == first + 12
    wrong = TEMPLATE.replace("@elements o n", "@elements o m")
    with pytest.raises(MslError, match="no scalar or function constant m") as caught:
        parse_library(HEAD + wrong + instance("a", "half"))
    assert caught.value.line == first + 1


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (TEMPLATE, "twice has no instantiation", 4),
        (instance("a", "half"), "no kernel template twice", 0),
        (TEMPLATE + instance("a", "half") * 2, "kernel a is already in", 3),
        (TEMPLATE + instance("a", "double"), "threadgroup array of double", 6),
    ],
)
def test_refused(text, message, line):
    with pytest.raises(MslError, match=message) as caught:
        parse_library(HEAD + text)
    assert caught.value.line == HEAD.count("\n") + line
