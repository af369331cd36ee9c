"""The table of budgets for Apple's instruction set, and what is read off assembly: no compiler."""

import pytest

from agx.budgets import BUDGETS, Budget, Measured, problems, read, write
from agx.loops import inner_loop, loops
from msl.library import read_library
from msl.source import shader_files

ASSEMBLY = """\
block0 {
   r0 = mov_imm #0
} -> block1

block1 {
   r1 = device_load r2, u8:u9, r1, x, #0, slot 0
} -> block2  from block0 block4

block2 {
   wait #0, slot 0
   r3 = convert #8, r1, #0
   r4 = ffma r3, r1, r4
   r5 = local_load r6, #0, x
   while_icmp r0, #0, #5, n=1
   jmp_exec_any #55
} -> block2 block3  from block1 block2

block3 {
   r6:r7 = iadd r6, r8, #0
   r9 = bfeil #0, r1, #5, #0
   r2 = simd_reduce r4, #1
   if_icmp r0h, #0, #55, n=1, inv
} -> block4  from block2

block4 {
   jmp_exec_any #44
} -> block1 block5  from block3

block5 {
   stop
} from block4
"""


def test_loops_have_their_own_instructions_only():
    outer, inner = loops(ASSEMBLY)
    assert (inner.instructions, inner.shared, inner.other, inner.multiply_adds) == (6, 4, 1, 1)
    assert (inner.device_loads, inner.threadgroup_loads) == (0, 1)
    # an addition of 64 bits takes 4, a reduction 24
    assert (outer.instructions, outer.shared, outer.other) == (6, 4, 4 + 24)
    assert outer.device_loads == 1
    assert inner_loop(ASSEMBLY) == inner
    assert inner_loop("block0 {\n   stop\n}\n") is None


def measured(**changes):
    values = {"instructions": 90, "registers": 40, "threads": 1024, "spilled": 0, "loops": ()}
    return Measured(**(values | {"turn": inner_loop(ASSEMBLY)} | changes))


def test_what_is_written_is_kept_and_is_within_its_budget(tmp_path):
    path = tmp_path / "budgets.txt"
    path.write_text("# head\nhot 1024 4 0 0\ngone 64\n")
    found = {"hot": measured(), "plain[Bits=3]": measured(threads=640, turn=None)}
    write(path, found, read(path))
    assert path.read_text().startswith("# head\nhot ")
    assert read(path) == {"hot": Budget(1024, 4, 1.5, 1.0), "plain[Bits=3]": Budget(640)}
    assert problems(found, read(path)) == []


def test_spills_that_a_person_wrote_are_kept_and_bound(tmp_path):
    path = tmp_path / "budgets.txt"
    path.write_text("k 640 4 0 0 spills=8\nplain 640 spills=2\n")
    found = {"k": measured(spilled=8), "plain": measured(spilled=3, turn=None, threads=640)}
    write(path, found, read(path))
    assert read(path)["k"] == Budget(1024, 4, 1.5, 1.0, 8)
    assert problems(found, read(path)) == ["plain: expected 2 spills, found 3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spilled": 4}, "k: expected no spills, found 4"),
        ({"threads": 896}, "k: expected 1024 threads a core, found 896"),
        ({"turn": None}, "k: expected an inner loop, found none"),
    ],
)
def test_what_is_over_its_budget_is_told(change, message):
    assert problems({"k": measured(**change)}, {"k": Budget(1024, 4, 1.5, 1.0)}) == [message]


def test_instructions_and_cycles_are_of_a_weight():
    found = problems({"k": measured()}, {"k": Budget(1024, 4, 1.4, 0.9)})
    assert found == [
        "k: expected at most 0.9 cycles of the shared unit a weight, found 1.00",
        "k: expected at most 1.4 instructions a weight, found 1.50",
    ]


@pytest.mark.parametrize("line", ["k", "k x", "k 1024 4", "k 1024 4 1.0 2.0 3.0"])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "budgets.txt"
    path.write_text(f"# head\n{line}\n")
    with pytest.raises(ValueError, match=r"budgets.txt:2: expected a name and 1 or 4 numbers"):
        read(path)


def test_each_kernel_has_a_line(repository):
    names = {kernel.name for kernel in read_library(shader_files(repository / "shaders")).kernels}
    assert {name.split("[")[0] for name in read(BUDGETS)} == names
