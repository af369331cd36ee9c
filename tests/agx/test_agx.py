"""The shaders as machine code of Apple's G13 (M1), by Mesa's compiler: `make agx-test`."""

import pytest

from agx.budgets import BUDGETS, Budget, measure, problems, read
from agx.compile import AgxError, find_compiler
from msl.library import parse_library, read_library
from msl.source import shader_files

HEAD = '#line 1 "snippet.metal"\n#include <metal_stdlib>\nusing namespace metal;\n'
NOTES = "/// @elements o n\n/// @elements a n\n/// @threadgroup 64\n"


@pytest.fixture(scope="session")
def compiler():
    return find_compiler() or pytest.skip("no asahi_clc: tools/agx/build.sh builds it")


def kernel(body):
    """A library of one kernel, k."""
    return parse_library(
        f"{HEAD}{NOTES}kernel void k(device float* o [[buffer(0)]], device const uint* a "
        "[[buffer(1)]], constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]], "
        f"uint lid [[thread_index_in_threadgroup]]) {{\n{body}\n}}\n"
    )


def loop(term, step=4):
    """A sum of `step` terms a turn; MASK in `term` differs for each."""
    terms = " ".join(
        f"s = fma({term.replace('MASK', str(17 + i))}, {i}.5f, s);" for i in range(step)
    )
    return f"float s = 0.0f;\nfor (uint at = lid; at < n; at += 64) {{ {terms} }}\no[i] = s;"


def test_all_kernels_are_within_their_budgets(compiler, pytestconfig):
    library = read_library(shader_files(pytestconfig.rootpath / "shaders"))
    assert problems(measure(library, compiler), read(BUDGETS)) == []


def test_a_turn_of_the_inner_loop_is_counted(compiler):
    """Four conversions of a word that is loaded once: 16 cycles of the shared unit."""
    found = measure(kernel(loop("float(a[at] & MASKu)")), compiler)["k"]
    assert found.threads == 1024 and found.spilled == 0
    assert (found.turn.multiply_adds, found.turn.shared, found.turn.device_loads) == (4, 16, 1)
    assert 12 <= found.turn.instructions <= 20
    # A conversion costs nothing where the bits are a float already.
    plain = measure(kernel(loop("as_type<float>(a[at] & MASKu)")), compiler)["k"]
    assert plain.turn.shared == 0 and plain.turn.instructions < found.turn.instructions


def test_a_slower_kernel_is_found(compiler):
    rows = {"k": Budget(1024, 4, 5.0, 4.0)}
    assert problems(measure(kernel(loop("float(a[at] & MASKu)")), compiler), rows) == []
    slower = measure(kernel(loop("float(a[at] >> MASKu) * float(a[at] & MASKu)")), compiler)
    found = problems(slower, rows)
    assert len(found) == 2
    assert found[0].startswith("k: expected at most 4.0 cycles of the shared unit a weight, found")
    assert found[1].startswith("k: expected at most 5.0 instructions a weight, found")


def test_a_kernel_that_needs_too_many_registers_is_found(compiler):
    """Sums that live at once, of two half registers each: Apple's GPUs have 256."""

    def found(n):
        sums = "".join(f"float s{i} = float(a[{i}]);" for i in range(n))
        adds = "".join(f"s{i} = fma(v, s{(7 * i + 1) % n}, {i}.5f);" for i in range(n))
        stores = "".join(f"o[i * {n} + {i}] = s{i};" for i in range(n))
        turn = f"{{ float v = float(a[at]); {adds} }}"
        body = f"{sums}\nfor (uint at = lid; at < n; at += 64) {turn}\n{stores}"
        return problems(measure(kernel(body), compiler), {"k": Budget(1024)})

    assert found(8) == []
    (threads,) = found(90)
    assert threads.startswith("k: expected 1024 threads a core, found")
    assert any(line.startswith("k: expected no spills, found") for line in found(150))


def test_an_array_that_is_not_in_registers_is_found(compiler):
    body = "float s[99];\nfor (uint j = 0; j < 99; ++j) s[j] = float(a[j]);\no[i] = s[a[i] % 99];"
    with pytest.raises(AgxError, match="stack_store"):  # which Mesa does not encode
        measure(kernel(body), compiler)


def test_a_kernel_without_a_budget_and_a_budget_without_a_kernel_are_found(compiler):
    found = problems(measure(kernel("o[i] = 0.0f;"), compiler), {"gone": Budget(1024)})
    assert found == [
        "gone: in budgets.txt, but no kernel is",
        "k: not in budgets.txt (`python -m agx write` adds it)",
    ]


def test_a_wrong_address_space_is_refused_with_its_place(compiler):
    with pytest.raises(AgxError, match=r"snippet.metal:8:15: error: cannot initialize.*__global"):
        measure(kernel("threadgroup float t[4];\ndevice float* p = t;\no[i] = p[0];"), compiler)
