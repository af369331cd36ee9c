"""The table of budgets: what kernels may take on an Apple GPU.

budgets.txt has a line for each kernel and value of a function constant that VALUES lists:

    NAME[CONSTANT=VALUE]   THREADS   [WEIGHTS INSTRUCTIONS SHARED]   [spills=BYTES]

THREADS of it fit a core at least, of 1024. A hot kernel has the WEIGHTS that a turn of its inner
loop takes, which a person says; INSTRUCTIONS and SHARED, cycles of the shared unit, are for each
weight, at most. Nothing may spill, unless a person writes how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from msl.model import Library

from .compile import compile_library
from .loops import Turn, inner_loop, loops

BUDGETS = Path(__file__).with_name("budgets.txt")
SPILLS = "spills="
# Values of function constants that models need, beside the defaults.
VALUES = {
    "Bits": (2, 3, 4, 5, 6, 8),
    "Dk": (64, 128, 256),
    "Activation": (1, 2, 3),
    "Gated": (0,),
    "AllSteps": (1,),
    "Biased": (1,),
}


@dataclass(frozen=True)
class Measured:
    """What a program takes."""

    instructions: int
    registers: int
    threads: int
    spilled: int
    turn: Turn | None
    loops: tuple[Turn, ...]


@dataclass(frozen=True)
class Budget:
    """A line of the table; without weights nothing is asked of the inner loop."""

    threads: int
    weights: int = 0
    instructions: float = 0.0
    shared: float = 0.0
    spills: int = 0


def measure(
    library: Library, compiler: Path, values: Mapping[str, Sequence[int]] = VALUES
) -> dict[str, Measured]:
    """Of every kernel, and of each of the `values` of constants that it uses. Raises AgxError."""
    found: dict[str, Measured] = {}
    defaults = {constant.name: constant.default for constant in library.constants}
    sets = [{}, *({n: v} for n in values if n in defaults for v in values[n] if v != defaults[n])]
    for constants in sets:
        programs = compile_library(library, constants, compiler)
        for kernel in library.kernels:
            if constants and constants.keys().isdisjoint(c.name for c in kernel.constants):
                continue
            p = programs[kernel.name]
            name = kernel.name + "".join(f"[{n}={v}]" for n, v in constants.items())
            found[name] = Measured(
                p.instructions,
                p.registers,
                p.threads,
                p.spilled,
                inner_loop(p.assembly),
                tuple(loops(p.assembly)),
            )
    return dict(sorted(found.items()))


def read(path: Path) -> dict[str, Budget]:
    """Raises ValueError, with the line."""
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("#")[0].split()
        try:
            if words:
                spills = words.pop() if words[-1].startswith(SPILLS) else f"{SPILLS}0"
                name, threads, *hot = words
                rows[name] = Budget(int(threads), *_hot(*hot) if hot else (0, 0.0, 0.0),
                                    int(spills.removeprefix(SPILLS)))  # fmt: skip
        except (TypeError, ValueError):
            raise ValueError(
                f"{path.name}:{number}: expected a name and 1 or 4 numbers, found {line!r}"
            ) from None
    return rows


def _hot(weights: str, instructions: str, shared: str) -> tuple[int, float, float]:
    return int(weights), float(instructions), float(shared)


def write(path: Path, found: dict[str, Measured], rows: dict[str, Budget]) -> None:
    """The table for what was found; weights and spills are those that `rows` says."""
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    lines = []
    for name, m in found.items():
        weights = rows[name].weights if name in rows else 0
        line = f"{name:40} {m.threads:4}"
        if weights and m.turn:
            instructions, shared = (
                ceil(100 * n / weights) / 100 for n in (m.turn.instructions, m.turn.shared)
            )
            line += f"   {weights:3} {instructions:6.2f} {shared:6.2f}"
        if name in rows and rows[name].spills:
            line += f"   {SPILLS}{rows[name].spills}"
        lines.append(line)
    path.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")


def problems(found: dict[str, Measured], rows: dict[str, Budget]) -> list[str]:
    """What is over its budget or has none; [] where all is well."""
    out = [f"{name}: in {BUDGETS.name}, but no kernel is" for name in rows.keys() - found.keys()]
    for name, m in found.items():
        if name not in rows:
            out.append(f"{name}: not in {BUDGETS.name} (`python -m agx write` adds it)")
            continue
        budget = rows[name]
        if m.spilled > budget.spills:
            out.append(f"{name}: expected {budget.spills or 'no'} spills, found {m.spilled}")
        if m.threads < budget.threads:
            out.append(f"{name}: expected {budget.threads} threads a core, found {m.threads}")
        if not budget.weights:
            continue
        if m.turn is None:
            out.append(f"{name}: expected an inner loop, found none")
            continue
        for what, most, n in (
            ("instructions", budget.instructions, m.turn.instructions),
            ("cycles of the shared unit", budget.shared, m.turn.shared),
        ):
            if n / budget.weights > most + 0.005:
                found_here = f"{n / budget.weights:.2f}"
                out.append(f"{name}: expected at most {most} {what} a weight, found {found_here}")
    return sorted(out)
