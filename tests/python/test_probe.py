"""The probes measure what they say: real reads of real files, bytes counted, files removed."""

import os

import pytest

import moeflux
from moeflux import _core, probe


def test_disk_rates_come_from_direct_reads_and_leave_no_file(tmp_path):
    rate = probe.disk(tmp_path, record_bytes=1 << 20, seconds=0.1)
    assert set(rate.by_batch) == set(probe.BATCHES)
    assert all(value > 0 for value in rate.by_batch.values())
    assert rate.best == max(rate.by_batch.values())
    assert rate.mode in ("direct", "buffered")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(moeflux.IoError, match="probe"):
        probe.disk(tmp_path / "nowhere")


def test_bytes_are_those_of_the_experts_read(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(os.urandom(10 * 5000 + 3))
    layer = [(5000, 0, [0] * 10, [3 + 5000 * index for index in range(10)])]
    done = _core.probe_reads([str(path)], [layer], 4, 2, 0.05, True)
    assert done["nbytes"] == done["rounds"] * 4 * 5000 and done["rounds"] >= 1


@pytest.mark.parametrize("offset", [4, 1 << 60])
def test_ranges_behind_the_end_and_wild_batches_are_refused(tmp_path, offset):
    path = tmp_path / "data"
    path.write_bytes(bytes(5003))
    with pytest.raises(moeflux.FormatError, match="behind"):
        _core.probe_reads([str(path)], [[(5000, 0, [0], [offset])]], 1, 1, 0.01, True)
    with pytest.raises(moeflux.FormatError, match="batch"):
        _core.probe_reads([str(path)], [[(5000, 0, [0], [0])]], 2, 1, 0.01, True)


def test_memory_and_kernel_rates_count_every_byte():
    done = _core.probe_memory(5 << 20, 2, 0.02)
    assert done["nbytes"] == done["rounds"] * (5 << 20)
    done = _core.probe_experts(128, 64, 4, 64, 3, 1 << 20, 2, 0.02, "", None)
    expert = 3 * 128 * 64 * 9 // 16  # q4 in groups of 64: 0.5625 bytes a weight
    assert done["nbytes"] == done["rounds"] * 3 * expert


def test_seconds_are_linear_between_the_measured_batches():
    rate = probe.DiskRate({1: 100.0, 2: 200.0, 4: 200.0}, "direct")
    assert rate.seconds(0, 100) == 0
    assert rate.seconds(0.5, 100) == pytest.approx(0.5)
    assert rate.seconds(1, 100) == rate.seconds(2, 100) == pytest.approx(1.0)
    assert rate.seconds(3, 100) == pytest.approx(1.5)
    assert rate.seconds(8, 100) == pytest.approx(4.0)


def test_kernel_rate_is_the_line_through_one_and_many_experts():
    # 3 stages of 1 ms beside 10 bytes an expert at 100 bytes/s.
    rate = probe.kernel_rate((10, 0.103), (80, 0.803))
    assert rate.bytes_per_second == pytest.approx(100)
    assert rate.stage_seconds == pytest.approx(0.001)
    # Noise: one expert as slow as many, or slower by itself than many could explain.
    assert probe.kernel_rate((10, 0.9), (80, 0.8)).bytes_per_second == pytest.approx(200)
    assert probe.kernel_rate((10, 0.05), (80, 0.8)).stage_seconds == 0
    measured = probe.kernels(128, 64, threads=2, seconds=0.05)
    assert measured.bytes_per_second > 0 and measured.stage_seconds >= 0
