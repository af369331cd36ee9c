"""The probes measure what they say: real reads of real files, bytes counted, files removed."""

import os

import pytest

import moeflux
from moeflux import _core
from moeflux.checkpoint import open_checkpoint
from moeflux.families import build_spec
from moeflux.planning import probe, rates
from moeflux.spec import tree
from moeflux.synth import Recipe, synthesize
from oracle import build
from support import probes


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Rates of no accuracy; in .ci/full test_doctor.py and commands have real sizes."""
    probes.make_small(monkeypatch.setattr)


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
    layer = [(5000, [0] * 10, [3 + 5000 * index for index in range(10)])]
    done = _core.probe_reads([str(path)], [layer], 4, 2, 0.05, True, None)
    assert done["nbytes"] == done["rounds"] * 4 * 5000 and done["rounds"] >= 1


@pytest.mark.parametrize("offset", [4, 1 << 60])
def test_ranges_behind_the_end_and_wild_batches_are_refused(tmp_path, offset):
    path = tmp_path / "data"
    path.write_bytes(bytes(5003))
    with pytest.raises(moeflux.FormatError, match="behind"):
        _core.probe_reads([str(path)], [[(5000, [0], [offset])]], 1, 1, 0.01, True, None)
    with pytest.raises(moeflux.FormatError, match="batch"):
        _core.probe_reads([str(path)], [[(5000, [0], [0])]], 2, 1, 0.01, True, None)


def test_memory_and_kernel_rates_count_every_byte():
    done = _core.probe_memory(5 << 20, 2, 0.02)
    assert done["nbytes"] == done["rounds"] * (5 << 20)
    done = _core.probe_experts(
        d_model=128, d_ff=64, format="affine4", group=64, dtype="BF16", top_k=3, nbytes=1 << 20,
        seconds=0.02, compute=_core.Compute(n_threads=2),
    )  # fmt: skip
    expert = 3 * 128 * 64 * 9 // 16  # q4 in groups of 64: 0.5625 bytes a weight
    assert done["nbytes"] == done["rounds"] * 3 * expert


def test_seconds_are_linear_between_the_measured_batches():
    rate = rates.DiskRate({1: 100.0, 2: 200.0, 4: 200.0}, "direct")
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


def test_a_layers_seconds_are_linear_between_misses_and_beyond():
    rate = rates.LayerRate({0: 1.0, 1: 2.0, 4: 8.0})
    assert [rate.seconds(n) for n in (0, 1, 2, 4, 8)] == pytest.approx([1, 2, 4, 8, 16])
    assert rates.LayerRate({0: 1.0}).seconds(5) == 1


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A small model's files, the ranges of its experts, and what one is."""
    checkpoint = open_checkpoint(synthesize(tmp_path_factory.mktemp("m") / "m", Recipe("small", 2)))
    spec = build_spec(checkpoint)
    ranges = [probe.ranges_of(moe.experts) for moe in spec.moes]
    return checkpoint, [str(file) for file in checkpoint.files], ranges, spec


def layer(experts, misses, n_slots, **changes):
    _, paths, ranges, spec = experts
    moe = tree(spec.moes[0])
    top_k = changes.get("top_k", moe["top_k"])
    return _core.probe_layer(
        paths=paths, layers=ranges, experts=changes.get("matrices", moe["experts"]),
        compute=_core.Compute(n_threads=2), top_k=top_k, misses=misses, n_slots=n_slots,
        read_threads=4, seconds=0.02,
    )  # fmt: skip


def test_a_layer_reads_exactly_the_experts_that_miss(experts):
    spec = experts[3]
    top_k, expert = spec.moes[0].top_k, spec.moes[0].experts.nbytes
    for n_slots in (top_k, 2 * top_k):
        misses = [0, 1, top_k]
        for n, done in zip(misses, layer(experts, misses, n_slots), strict=True):
            assert done["rounds"] >= 1 and done["nbytes"] == done["rounds"] * n * expert


def test_layers_that_cannot_be_probed_are_refused(experts):
    top_k, n = experts[3].moes[0].top_k, sum(len(r[0][1]) for r in experts[2])
    for misses, n_slots in (([top_k + 1], top_k), ([0], top_k - 1), ([1], n), ([0], n + 1)):
        with pytest.raises(moeflux.FormatError, match="misses"):
            layer(experts, misses, n_slots)
    moe = tree(experts[3].moes[0].experts)
    wider = {**moe, "down": {**moe["down"], "out": moe["down"]["out"] * 64}}
    with pytest.raises(moeflux.FormatError, match="bytes an expert"):
        layer(experts, [0], top_k, matrices=wider)


@pytest.mark.parametrize("is_local", [True, False])
def test_a_machine_is_measured_with_the_models_own_layer(experts, tmp_path, is_local):
    checkpoint, _, _, spec = experts
    files = checkpoint.files if is_local else ()
    folder = None if is_local else tmp_path
    found = probe.machine(spec, files, 1 << 16, 2, folder)
    top_k = spec.moes[0].top_k
    assert set(found.layer.by_misses) == {0, top_k, *(n for n in probe.BATCHES if n < top_k)}
    assert all(value > 0 for value in found.layer.by_misses.values())
    assert list(tmp_path.iterdir()) == []


def test_a_machine_of_layers_of_several_widths_is_measured_with_the_first(tmp_path):
    folder = build(tmp_path / "m", "qwen3_moe", "mlx-q3_6", 0, moe_intermediate_size=512)
    checkpoint = open_checkpoint(folder)  # wide enough that a slot tells the widths apart
    spec = build_spec(checkpoint)
    formats = {moe.experts.down.format for moe in spec.moes}
    assert formats == {"affine3", "affine6"}
    found = probe.machine(spec, checkpoint.files, 1 << 16, 2)
    assert all(value > 0 for value in found.layer.by_misses.values())


def test_a_machine_is_measured_at_the_precision_asked_for(experts, monkeypatch):
    checkpoint, _, _, spec = experts
    found = {}

    def watched(work):
        native = getattr(_core, work)

        def watch(**named):
            found[work] = named["compute"].precision
            return native(**named)

        return watch

    for work in ("probe_experts", "probe_layer"):
        monkeypatch.setattr(_core, work, watched(work))
    probe.machine(spec, checkpoint.files, 1 << 16, 2, precision="bfloat16")
    assert found == {"probe_experts": "bfloat16", "probe_layer": "bfloat16"}
    with pytest.raises(moeflux.FormatError, match="float64"):
        probe.machine(spec, checkpoint.files, 1 << 16, 2, precision="float64")


def test_a_machine_for_a_dense_model_has_no_layer(tmp_path):
    folder = build(tmp_path / "m", "qwen3_moe", num_hidden_layers=1, mlp_only_layers=[0])
    found = probe.machine(build_spec(open_checkpoint(folder)), (), 0, 2, tmp_path)
    assert found.layer is None and found.disk.best > 0
