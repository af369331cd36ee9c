"""The table of checkpoints in docs/models.md is what tools/docs/checkpoints.py computes."""

import importlib.util
import sys
from pathlib import Path

import pytest

from moeflux import hub, known
from moeflux.families import FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "models.md"
# Total parameters and those of a token, in billions, as the names or their publishers say.
SAID = {"Qwen3-30B-A3B": (30.5, 3.3), "Qwen3-235B-A22B": (235, 22), "gpt-oss-20b": (20.9, 3.6),
        "Mixtral-8x7B": (46.7, 12.9), "OLMoE-1B-7B": (6.9, 1.3), "Hy3": (295, 21)}  # fmt: skip
FEW = ("gpt-oss-20b", "Mixtral-8x7B", "OLMoE-1B-7B")  # experts, so that it takes no time


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setenv("MOEFLUX_SIMD", "portable")
    path = ROOT / "tools/docs/checkpoints.py"
    spec = importlib.util.spec_from_file_location("checkpoints", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "checkpoints", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FEW)
def test_a_row_is_that_of_the_script(name, script):
    (found,) = (checkpoint for checkpoint in script.CHECKPOINTS if checkpoint[0] == name)
    row = script.row(*found)
    assert row.line in PAGE.read_text(), "run tools/docs/checkpoints.py"
    (kept,) = (row for row in known.checkpoints() if row.name == name)
    assert differs(kept, row.known) == []


def differs(kept, computed):
    """What is not the same; buffers of the kernels may differ by a hundredth of the whole."""
    near = {name: pytest.approx(value, rel=0.01) for name, value in computed.sizes.items()
            if isinstance(value, int)}  # fmt: skip
    pairs = {name: (kept.sizes[name], wanted) for name, wanted in near.items()}
    pairs |= {name: (getattr(kept, name), getattr(computed, name))
              for name in known.Known._fields if name != "sizes"}  # fmt: skip
    return [name for name, (found, wanted) in pairs.items() if found != wanted]


def test_another_number_is_seen():
    row = known.checkpoints()[0]
    assert differs(row, row) == []
    assert differs(row._replace(active=1), row) == ["active"]
    more = row.sizes | {"resident_bytes": int(1.02 * row.sizes["resident_bytes"])}
    assert differs(row._replace(sizes=more), row) == ["resident_bytes"]


@pytest.mark.full
def test_the_table_is_that_of_the_script(script):
    rows = script.rows()
    assert PAGE.read_text() == script.page(rows), "run tools/docs/checkpoints.py"
    kept = known.checkpoints()
    assert [row.name for row in kept] == [row.name for row in rows]
    assert [differs(*pair) for pair in zip(kept, (row.known for row in rows), strict=True)] == [
        []
    ] * len(rows)


def test_short_names_are_unlike_each_other_paths_and_models_of_the_package():
    names = [name for row in known.checkpoints() for name in row.hub]
    assert len(set(names)) == len(names) > 10
    for name in names:
        assert name == name.lower() and "/" not in name and name not in hub.SHIPPED
        assert hub.require_hub_id(name.upper()) == hub.require_hub_id(known.hub_id(name))


def test_parameters_are_what_publishers_say(script):
    lines = [line.split("|") for line in PAGE.read_text().splitlines() if " GB |" in line]
    rows = {cells[1].strip(): cells[4] for cells in lines}
    for name, (total, active) in SAID.items():
        (cell,) = (cell for names, cell in rows.items() if name in names.split(", "))
        found = [float(part.split()[0]) for part in cell.split(",")]
        assert found == pytest.approx([total, active], rel=0.2)
        assert found[0] == pytest.approx(total, rel=0.01)


def test_every_family_has_a_row(script):
    rows = {FAMILIES[family] for _, family, _ in script.CHECKPOINTS}
    assert set(FAMILIES.values()) == rows
