"""benchmarks/builds.py: what it says of two builds that differ, and of two that do not."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def builds(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("builds")


def test_an_array_that_differs_in_one_build_is_named(builds, monkeypatch, capsys):
    found = {"base": {"a logits": "1", "b logits": "2"}, "head": {"a logits": "1", "b logits": "3"}}
    monkeypatch.setattr(builds, "child", lambda target, *args, **options: found[target])
    assert builds.compare_bits("base", "head", ["portable"]) == 3  # a precision each
    assert "portable, int8: 2 arrays, 1 differ\n  b logits\n" in capsys.readouterr().out
    assert builds.compare_bits("head", "head", ["portable"]) == 0


def test_an_array_that_the_head_lacks_differs(builds, monkeypatch):
    found = {"base": {"a": "1"}, "head": {}}
    monkeypatch.setattr(builds, "child", lambda target, *args, **options: found[target])
    assert builds.compare_bits("base", "head", ["portable"]) == 3


def test_pairs_take_turns_and_give_a_ratio_with_its_interval(builds, monkeypatch):
    started = []

    def child(target, *args):
        started.append(target)
        return {"decode": 2.0 if target == "head" else 1.0 + 0.01 * (len(started) % 3)}

    monkeypatch.setattr(builds, "child", child)
    found = builds.compare_speed("base", "head", "folder", 15)["decode"]
    assert started[:4] == ["head", "base", "base", "head"] and len(started) == 30
    assert found["low"] <= found["median"] <= found["high"]
    assert found["low"] > 1.9 and found["high"] <= 2.0
