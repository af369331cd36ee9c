"""A probe on a disturbed machine: measured again, held to what physics allows, and said plainly."""

import json
import random

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from moeflux import _core
from moeflux.checkpoint import open_checkpoint
from moeflux.commands.plan import plan as plan_command
from moeflux.families import build_spec
from moeflux.planning import plan, probe, steady
from moeflux.synth import Recipe, synthesize

SERIES = st.dictionaries(st.integers(0, 64), st.floats(1e-6, 1e3), min_size=1, max_size=8)
SEEDS = range(40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("m") / "m", Recipe("small"))


class FakeProbes:
    """Native probes that sleep nowhere: true times, of which `share` are 2 to 20 times as long."""

    def __init__(self, monkeypatch, seed, share):
        self.random, self.share, self.calls = random.Random(seed), share, 0
        for name in ("reads", "layer", "experts", "memory"):
            monkeypatch.setattr(_core, f"probe_{name}", getattr(self, name))

    def rate(self, seconds, nbytes):
        self.calls += 1
        disturbed = self.random.random() < self.share
        seconds *= self.random.uniform(2, 20) if disturbed else self.random.uniform(1, 1.1)
        return {"nbytes": nbytes * 10, "rounds": 10, "seconds": seconds * 10, "mode": "direct"}

    @staticmethod
    def read_seconds(n):
        return 0.0005 + 0.001 * n

    @staticmethod
    def layer_seconds(n):
        return 0.002 + 0.0008 * n

    def reads(self, paths, layers, batch, *_):
        return self.rate(self.read_seconds(batch), batch * 1_000_000)

    def layer(self, misses, **_):
        return [self.rate(self.layer_seconds(n), n * 1_000_000) for n in misses]

    def experts(self, top_k, **_):
        return self.rate(0.0003 + 0.0001 * top_k, top_k * 1_000_000)

    def memory(self, nbytes, threads, seconds):
        return {"nbytes": 1e10, "rounds": 1, "seconds": 1.0}


def measured(folder):
    checkpoint = open_checkpoint(folder)
    spec = build_spec(checkpoint)
    sizes = plan.measure(checkpoint, spec, 512, 2)
    return sizes, probe.machine(spec, checkpoint.files, sizes.slot_bytes, 2)


@given(SERIES)
def test_lawful_times_never_fall_with_work_nor_pass_those_of_work_in_turns(series):
    found = steady.lawful(series)
    assert set(found) == set(series)
    for n, seconds in found.items():
        assert 0 < seconds <= series[n]
        assert all(seconds <= more for m, more in found.items() if m >= n)
        assert all(found[m] <= seconds * -(-m // n) * (1 + 1e-9) for m in found if m > n > 0)
    assert steady.lawful(found) == pytest.approx(found)


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1e3))
def test_times_that_keep_the_law_stay_as_they_are(start, step):
    series = {n: start + n * step for n in (0, 1, 2, 4, 8)}
    assert steady.lawful(series) == series


def test_measurements_that_agree_are_not_repeated(folder, monkeypatch):
    fake = FakeProbes(monkeypatch, 0, 0)
    _, machine = measured(folder)
    # 4 batches and 0, 1, 2 and 4 misses, three rounds of each; one and many experts.
    assert fake.calls == steady.ROUNDS * (4 + 4) + 2
    assert machine.disturbed() == {}


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_disturbed_probe_makes_no_plan_that_is_slower_with_more_memory(
    folder, monkeypatch, share
):
    for seed in SEEDS:
        FakeProbes(monkeypatch, seed, share)
        sizes, machine = measured(folder)
        rates = [machine.disk.by_batch[n] for n in sorted(machine.disk.by_batch)]
        times = [machine.layer.by_misses[n] for n in sorted(machine.layer.by_misses)]
        assert rates == pytest.approx(sorted(rates)) and times == sorted(times)
        for routing in (0, 1):
            rows = plan.rows(sizes, machine, plan.usual_budgets(sizes))
            speeds = [row.speeds[routing].tokens_per_second for row in rows]
            assert speeds == pytest.approx(sorted(speeds)), seed


def test_one_disturbed_measurement_in_five_is_seen_through_or_said(folder, monkeypatch):
    said = 0
    for seed in SEEDS:
        fake = FakeProbes(monkeypatch, seed, 0.2)
        _, machine = measured(folder)
        said += bool(machine.disturbed())
        near = 1.1 * steady.NOISE
        if "disk reads" not in machine.disturbed():
            for n, rate in machine.disk.by_batch.items():
                assert n * 1e6 / rate <= near * fake.read_seconds(n)
        if "a layer's experts" not in machine.disturbed():
            for n, seconds in machine.layer.by_misses.items():
                assert seconds <= near * fake.layer_seconds(n)
    assert said < len(SEEDS) / 2  # most are seen through


def command(*args, **options):
    with pytest.raises(typer.Exit):  # its status is the verdict
        plan_command(*args, **options)


def test_a_machine_that_is_always_busy_is_said_to_be(folder, monkeypatch, capsys):
    FakeProbes(monkeypatch, 3, 0.6)
    command(str(folder), context=512, threads=2)
    assert "Measured on a busy machine" in capsys.readouterr().out
    FakeProbes(monkeypatch, 3, 0.6)
    command(str(folder), context=512, threads=2, as_json=True)
    assert json.loads(capsys.readouterr().out)["disturbed"]
    FakeProbes(monkeypatch, 3, 0)
    command(str(folder), context=512, threads=2)
    assert "busy" not in capsys.readouterr().out
