"""What the doctor found is remembered, for this chip, system, version and its shaders alone."""

import json
import logging
import re
from types import SimpleNamespace

import pytest

import moeflux as mf
from moeflux import _core, checked_devices, doctor
from moeflux import device as device_module
from moeflux import state as remembered
from moeflux.cli import app
from moeflux.errors import GpuError
from moeflux.planning import probe, rates
from moeflux.synth import Recipe, synthesize
from moeflux.synth.gguf import FILE_NAME
from oracle import build
from oracle.families import FAMILIES
from support.few import few

GPU = SimpleNamespace(kind="metal", name="Apple M9")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "moeflux" / checked_devices.NAME


def test_nothing_has_passed_before_the_doctor_came(state):
    assert not checked_devices.has_passed(GPU)
    assert checked_devices.place() == state
    checked_devices.note_passed(GPU)
    checked_devices.note_passed(GPU)
    assert checked_devices.has_passed(GPU)
    assert len(remembered.read(checked_devices.NAME)) == 1
    checked_devices.revoke("metal")
    assert not checked_devices.has_passed(GPU)


@pytest.mark.parametrize("what", ["chip", "version", "system", "shaders"])
def test_another_machine_is_checked_again(monkeypatch, what):
    checked_devices.note_passed(GPU)
    device = SimpleNamespace(kind="metal", name="Apple M8") if what == "chip" else GPU
    if what == "version":
        monkeypatch.setattr(checked_devices, "__version__", "99")
    if what == "shaders":
        other = _core.library_source() + " "
        monkeypatch.setattr(_core, "library_source", lambda: other)
    if what == "system":
        monkeypatch.setattr(checked_devices.platform, "platform", lambda: "macOS-99")
    assert not checked_devices.has_passed(device)


@pytest.mark.parametrize("text", ["", "{", "{}", "7", "[" * 9999, "\udcff", "[null]", "x" * 70000])
def test_a_file_that_says_nothing_is_as_none(state, text):
    state.parent.mkdir()
    state.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert not checked_devices.has_passed(GPU)
    checked_devices.note_passed(GPU)
    assert checked_devices.has_passed(GPU)


def test_a_folder_that_cannot_be_written_is_told(state, caplog):
    state.parent.write_text("a file")
    caplog.set_level(logging.WARNING, "moeflux")
    checked_devices.note_passed(GPU)
    assert "cannot remember" in caplog.text
    assert not checked_devices.has_passed(GPU)


def test_auto_takes_what_was_checked_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(device_module, "first_device", lambda kinds: GPU)
    caplog.set_level(logging.INFO, "moeflux")
    assert device_module.open_device("auto", "float32") is None
    assert "Apple M9) has not been checked here: run `moeflux doctor`" in caplog.text
    checked_devices.note_passed(GPU)
    assert device_module.open_device("auto", "float32") is GPU
    assert "has found right" in caplog.text
    assert device_module.open_device("auto", "int8") is None


def examine(monkeypatch, check_model, kinds=("host",)):
    monkeypatch.setattr(doctor, "GPUS", ("host",))
    monkeypatch.setattr(doctor, "check_kernels", lambda *_: [])
    monkeypatch.setattr(doctor, "check_model", check_model)
    monkeypatch.setattr(doctor.speed, "measure_all", lambda *_: [])
    monkeypatch.setattr(doctor.probe, "disk", lambda _: None)
    monkeypatch.setattr(doctor.probe, "memory", lambda: 1.0)
    return doctor.examine(kinds, facts_too=False)


@pytest.fixture
def host():
    return _core.NativeDevice("host")


@pytest.mark.parametrize("wrong", [True, False])
def test_the_doctor_notes_what_it_finds_of_a_gpu(monkeypatch, host, wrong):
    checked_devices.note_passed(host)
    problem = "a logit differs" if wrong else None
    report = examine(monkeypatch, lambda _: SimpleNamespace(problem=problem))
    assert bool(report.problems) == wrong
    assert checked_devices.has_passed(host) == (not wrong)


def test_an_examination_that_does_not_end_leaves_no_mark(monkeypatch, host):
    checked_devices.note_passed(host)
    checked_devices.note_passed(GPU)

    def crash(_):
        assert not checked_devices.has_passed(host)  # as a process that is killed here leaves it
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(monkeypatch, crash)
    assert not checked_devices.has_passed(host)
    assert checked_devices.has_passed(GPU)


def test_a_device_that_does_not_open_loses_its_mark(monkeypatch, host):
    checked_devices.note_passed(host)

    def fails(_):
        raise GpuError("no queue")

    monkeypatch.setattr(doctor, "Backend", fails)
    assert examine(monkeypatch, None).problems == ["host: no queue"]
    assert not checked_devices.has_passed(host)


# ---- auto, and what a device cannot compute ----------------------------------------------------


@pytest.fixture
def checked_host(monkeypatch, host):
    """The host device as a GPU that the doctor has found right."""
    monkeypatch.setattr(device_module, "GPUS", ("host",))
    checked_devices.note_passed(host)


REFUSED = [f for f in FAMILIES if FAMILIES[f].beyond_devices]


@pytest.fixture
def loads(monkeypatch):
    """The loads of the core, which read weights."""
    seen, real = [], _core.load_model
    monkeypatch.setattr(_core, "load_model", lambda **kw: seen.append(kw) or real(**kw))
    return seen


@pytest.mark.parametrize("family", ["qwen3_moe", *few(2, REFUSED)])
def test_auto_takes_the_cpu_for_a_model_that_the_device_refuses(
    checked_host, loads, caplog, tmp_path, family
):
    build(tmp_path, family, "mlx-bf16")
    caplog.set_level(logging.INFO, "moeflux")
    model = mf.load(tmp_path, memory="512MiB", context=64, device="auto")
    words = FAMILIES[family].beyond_devices
    assert model.stats["device"] == ("cpu" if words else "host")
    assert len(loads) == 1
    assert ("cannot compute this model" in caplog.text) == bool(words)
    assert words in caplog.text


def test_auto_takes_the_cpu_for_a_format_that_no_kernel_reads(checked_host, caplog, tmp_path):
    folder = synthesize(tmp_path / "m", Recipe("small", seed=4), with_gguf=True)
    caplog.set_level(logging.INFO, "moeflux")
    model = mf.load(folder / FILE_NAME, memory="512MiB", context=64, device="auto")
    assert model.stats["device"] == "cpu"
    assert re.search("found weights of \\w+, which no kernel of a device reads", caplog.text)


def test_what_is_wrong_with_a_model_is_told_with_auto_as_without(checked_host, tmp_path):
    build(tmp_path, "qwen3_moe", "mlx-bf16")
    with pytest.raises(mf.MemoryBudgetError, match=r"would do|at least"):
        mf.load(tmp_path, memory="1MiB", context=64, device="auto")
    build(tmp_path / "refused", REFUSED[0], "mlx-bf16")
    with pytest.raises(mf.FormatError, match="which no kernel of a device"):
        mf.load(tmp_path / "refused", memory="512MiB", context=64, device="host")


@pytest.mark.parametrize("command", ["plan", "bench"])
def test_commands_ask_as_load_does(checked_host, monkeypatch, tmp_path, capsys, command):
    build(tmp_path, REFUSED[0], "mlx-bf16")
    machine = rates.Machine(rates.DiskRate({1: 1e9}, "direct"), 1e9, rates.KernelRate(1e9, 0.0), 1)
    monkeypatch.setattr(probe, "machine", lambda *args, **options: machine)
    options = ["--device", "auto", "--memory", "512MiB", "--json"]
    options += ["--prompt", "8", "-n", "2"] if command == "bench" else ["--context", "64"]
    with pytest.raises(SystemExit) as ended:
        app([command, str(tmp_path), *options])
    assert not ended.value.code
    report = json.loads(capsys.readouterr().out)
    device = report["device"] if command == "plan" else report["runs"][0]["setting"]["device"]
    assert device == "cpu"
