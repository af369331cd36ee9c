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


def test_a_device_that_fails_while_the_disk_is_read_was_not_busy(monkeypatch, tmp_path):
    def fails(*_):
        raise GpuError("the GPU is gone")

    monkeypatch.setattr(facts._Tiny, "record", fails)
    monkeypatch.setattr(facts._Tiny, "__init__", lambda *_: None)
    monkeypatch.setattr(facts, "_QUESTIONS", (("reading", facts._reading),))
    (fact,) = facts.measure(Backend(DEVICES[0]), False, lambda _: None, tmp_path)
    assert (fact.value, fact.note) == (None, "the GPU is gone")


class Slow:
    """Commands that hold the device for a microsecond a hundred positions."""

    def __init__(self, longest):
        self.gpu_seconds, self.longest = 0.0, longest

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.gpu_seconds > self.longest:
            raise GpuError("Impacting Interactivity")

    def dispatch(self, name, args, *_):
        self.gpu_seconds += 1e-8 * int(args[5])


@pytest.mark.parametrize("longest", [1.0, 1.5e-3])
def test_work_is_held_for_as_long_as_is_asked_in_several_dispatches_if_need_be(
    monkeypatch, longest
):
    """One dispatch of all positions takes 41 us here."""
    backend = Backend(DEVICES[0])
    monkeypatch.setattr(backend, "commands", lambda: Slow(longest))
    first, second, *last = facts._holding(backend, facts.SMALL, None)
    assert (first.what, first.unit) == ("1 ms in 25 dispatches", "ms")
    assert first.value == pytest.approx(1, rel=0.02)
    if longest < 2e-3:
        assert (second.value, second.note) == (None, "ended: Impacting Interactivity")
        assert last == []
    else:
        assert second.value == pytest.approx(2, rel=0.02)
        assert [fact.note for fact in last] == ["none: all ran to their end"]
