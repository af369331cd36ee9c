"""What only a machine can tell of its GPU: asked in small form, since here is none."""

import json

import pytest

from moeflux.doctor import facts
from moeflux.errors import GpuError
from moeflux.gpu.backend import Backend
from support.devices import DEVICES


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return facts.measure(Backend(DEVICES[0]), False, lambda _: None, tmp_path_factory.mktemp("d"))


def test_all_twelve_are_answered_with_a_number_or_a_reason(found):
    assert {fact.point for fact in found} == set(range(1, 13))
    for fact in found:
        assert fact.unit in ("us", "ms", "GB/s", "threads") or (fact.value is None and fact.note)
        assert fact.value is None or fact.value > 0


def test_no_number_here_is_taken_for_a_gpus(found):
    timed = [fact for fact in found if fact.point not in (10, 11, 12) and fact.value is not None]
    assert timed
    assert {fact.note for fact in timed} == {facts.NOTE}


def test_every_kernel_that_is_asked_for_is_there(found):
    """A kernel that changed its name or arguments would answer with a reason only."""
    missing = [fact for fact in found if fact.point in (4, 5, 6) and fact.value is None]
    assert missing == []
    assert [fact for fact in found if fact.point == 12 and fact.note == "ran to its end"]


def test_the_full_form_asks_the_same_of_larger_shapes():
    assert {label[0] for label, _, _ in facts.FULL.shapes} == {"4", "5", "6"}
    small = {kernel for _, kernel, _ in facts.SMALL.shapes}
    assert small == {kernel for _, kernel, _ in facts.FULL.shapes if "down" not in kernel}


def test_the_table_fits_a_paste_and_the_facts_a_json(found):
    lines = list(facts.table(found))
    assert len(lines) == len(found)
    assert all(len(line) < 160 for line in lines)
    assert json.loads(json.dumps([vars(fact) for fact in found]))


def test_what_fails_is_an_answer(monkeypatch):
    def ends(*_):
        yield facts.Fact(12, "a dispatch of 20 ms", 20.0, "ms", "ran to its end")
        raise GpuError("Impacting Interactivity")

    monkeypatch.setattr(facts, "_QUESTIONS", (("holding", ends),))
    ran, ended = facts.measure(Backend(DEVICES[0]), False, lambda _: None)
    assert (ran.value, ended.value, ended.note) == (20.0, None, "Impacting Interactivity")
