"""The logger `moeflux`: silent by default, told about loads, budgets, fallbacks and slow reads."""

import gc
import logging
import subprocess
import sys
import weakref

import pytest

import moeflux
from moeflux import log
from moeflux.device import open_device
from support.commands import run_moeflux

SMALL = {"memory": "17MB", "context": 256}


def told(caplog, level=logging.INFO):
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_nothing_is_shown_until_somebody_listens():
    script = (
        "import moeflux as mf; m = mf.load(memory='17MB', context=64); mf.generate(m, 'x');"
        "mf.log.logger.warning('nobody hears this')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == done.stderr == b""


def test_verbose_shows_records_on_standard_error():
    args = ["generate", "x", "-n", "2", "--memory", "17MB", "--context", "64", "--json"]
    for verbose in ([], ["--verbose"], ["-v"]):
        done = run_moeflux(*args, *verbose)
        assert ("INFO loaded" in done.stderr) == bool(verbose)
        assert done.stdout.startswith("{")
    done = run_moeflux("info", "/nowhere", "-v")
    assert "Traceback" in done.stderr and done.stderr.splitlines()[-1].startswith("moeflux: ")


def test_a_load_tells_what_how_and_how_much(caplog):
    caplog.set_level(logging.INFO, "moeflux")
    model = moeflux.load(**SMALL)
    chosen, what, memory = told(caplog)
    assert "device auto: " in chosen
    stats = model.stats
    assert str(model.path) in what and "qwen3_next" in what and stats["simd"] in what
    assert "17MB" in memory and "17000000 bytes" in memory and " of 320 experts" in memory
    moeflux.generate(model, "def main(", max_tokens=4)
    reads = told(caplog)[3]
    assert f"{model.stats['tokens']} tokens" in reads
    assert f"{model.stats['bytes_read'] / 1e6:.0f} MB" in reads
    assert told(caplog, logging.WARNING) == []


def test_a_record_keeps_no_model(caplog):
    caplog.set_level(logging.DEBUG, "moeflux")
    model = moeflux.load(**SMALL)
    native = weakref.ref(model._native)
    model.close()
    gc.collect()
    assert len(caplog.records) > 1 and native() is None


class Reading:
    """A model whose counters a test writes."""

    path, config = "m\x1b", {"model_type": "x"}

    def __init__(self, **stats):
        self._best_read_rate, self.rows = 0.0, 64
        counted = ["tokens", "misses", "ahead_reads", "ahead_used", "bytes_read", "wait_seconds",
                   "reading_seconds", "memory_bytes", "live_bytes", "slot_bytes", "slots",
                   "max_slots"]  # fmt: skip
        named = {"precision": "", "device_name": "", "simd": "", "read_mode": "direct"}
        self.stats = dict.fromkeys(counted, 0) | named | stats

    def read(self, experts, nbytes, seconds, **more):
        more |= {"misses": experts, "bytes_read": nbytes, "reading_seconds": seconds}
        with log.reads_of(self):
            self.stats = self.stats | {name: self.stats[name] + n for name, n in more.items()}


@pytest.mark.parametrize(("mode", "asked"), [("buffered", True), ("buffered", False),
                                             ("direct", True)])  # fmt: skip
def test_refused_direct_reads_are_told(caplog, mode, asked):
    log.loaded(Reading(read_mode=mode), "auto", asked, 0.1)
    assert len(told(caplog, logging.WARNING)) == (mode == "buffered" and asked)


def test_slow_reads_are_told_by_their_time_and_by_what_was_seen_before(caplog):
    model = Reading()
    model.read(10, 20 << 20, 0.02)
    model.read(10, 20 << 20, 0.19)  # a tenth as fast, just not slow yet
    model.read(10, 1 << 20, 1.0)  # too few to tell
    model.read(0, 0, 0.0)
    assert told(caplog, logging.WARNING) == []
    model.read(10, 20 << 20, 0.21)
    assert "once 1.0" in told(caplog, logging.WARNING)[0]
    Reading().read(2, 1 << 20, 2.1)
    assert "1.1 s for an expert" in told(caplog, logging.WARNING)[1]


def test_a_guess_counts_as_one_read_whether_it_came_true_or_not(caplog):
    caplog.set_level(logging.INFO, "moeflux")
    Reading().read(5, 1000, 0.1, ahead_reads=4, ahead_used=1)  # the one is among the misses, too
    assert "took 8 experts" in told(caplog)[-1]


def test_a_device_that_is_not_taken_is_told(caplog):
    caplog.set_level(logging.INFO, "moeflux")
    if open_device("auto", "int8") is None:
        assert "float32 only" in told(caplog)[-1]
    if open_device("auto", "float32") is None:
        assert "cpu, because" in told(caplog)[-1] and len(told(caplog)) == 2


def test_records_are_escaped_on_their_way_to_a_terminal():
    record = logging.makeLogRecord({"msg": "%s", "args": ("m\x1b[2J",)})
    assert log._Escaped().format(record) == "m\\x1b[2J"
