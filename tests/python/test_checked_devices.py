"""What the doctor found is remembered, for this chip, system and version alone."""

import logging
from types import SimpleNamespace

import pytest

from moeflux import checked_devices, doctor
from moeflux import device as device_module

GPU = SimpleNamespace(kind="metal", name="Apple M9")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "moeflux" / checked_devices.NAME


def test_nothing_has_passed_before_the_doctor_came(state):
    assert not checked_devices.has_passed(GPU)
    assert checked_devices.place() == state
    checked_devices.note(GPU, True)
    checked_devices.note(GPU, True)
    assert checked_devices.has_passed(GPU)
    assert len(checked_devices._read()) == 1
    checked_devices.note(GPU, False)
    assert not checked_devices.has_passed(GPU)


@pytest.mark.parametrize("what", ["chip", "version", "system"])
def test_another_machine_is_checked_again(monkeypatch, what):
    checked_devices.note(GPU, True)
    device = SimpleNamespace(kind="metal", name="Apple M8") if what == "chip" else GPU
    if what == "version":
        monkeypatch.setattr(checked_devices, "__version__", "99")
    if what == "system":
        monkeypatch.setattr(checked_devices.platform, "platform", lambda: "macOS-99")
    assert not checked_devices.has_passed(device)


@pytest.mark.parametrize("text", ["", "{", "{}", "7", "[" * 9999, "\udcff", "[null]", "x" * 70000])
def test_a_file_that_says_nothing_is_as_none(state, text):
    state.parent.mkdir()
    state.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert not checked_devices.has_passed(GPU)
    checked_devices.note(GPU, True)
    assert checked_devices.has_passed(GPU)


def test_a_folder_that_cannot_be_written_is_told(state, caplog):
    state.parent.write_text("a file")
    caplog.set_level(logging.WARNING, "moeflux")
    checked_devices.note(GPU, True)
    assert "cannot remember" in caplog.text
    assert not checked_devices.has_passed(GPU)


def test_auto_takes_what_was_checked_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(device_module, "first_device", lambda kinds: GPU)
    caplog.set_level(logging.INFO, "moeflux")
    assert device_module.open_device("auto", "float32") is None
    assert "Apple M9) has not been checked here: run `moeflux doctor`" in caplog.text
    checked_devices.note(GPU, True)
    assert device_module.open_device("auto", "float32") is GPU
    assert "has found right" in caplog.text
    assert device_module.open_device("auto", "int8") is None


@pytest.mark.parametrize("wrong", [True, False])
def test_the_doctor_notes_what_it_finds_of_a_gpu(monkeypatch, wrong):
    found = []
    monkeypatch.setattr(doctor, "GPUS", ("host",))
    monkeypatch.setattr(doctor.checked_devices, "note", lambda _, passed: found.append(passed))
    monkeypatch.setattr(doctor, "check_kernels", lambda *_: [])
    problem = "a logit differs" if wrong else None
    monkeypatch.setattr(doctor, "check_model", lambda _: SimpleNamespace(problem=problem))
    monkeypatch.setattr(doctor.speed, "measure_all", lambda *_: [])
    monkeypatch.setattr(doctor.probe, "disk", lambda _: None)
    monkeypatch.setattr(doctor.probe, "memory", lambda: 1.0)
    report = doctor.examine(["host"], facts_too=False)
    assert bool(report.problems) == wrong
    assert found == [not wrong]
