"""`moeflux doctor`: it finds what is wrong, and says so in its report and its exit status."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import moeflux as mf
from moeflux import doctor
from moeflux.cli import app
from moeflux.doctor import checks, facts, model_check, speed
from moeflux.doctor.kernels import cases
from support import probes


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """In this process a shape a kernel, no facts (test_doctor_facts.py) and rates of no accuracy.

    A test of .ci/full below runs it whole.
    """
    for kernel, family in list(cases.KERNELS.items()):
        monkeypatch.setitem(cases.KERNELS, kernel, family._replace(shapes=family.shapes[:1]))
    monkeypatch.setattr(facts, "_QUESTIONS", ())
    monkeypatch.setattr(speed, "RUN_SECONDS", 1e-6)
    monkeypatch.setattr(speed, "SHAPES", ((16, 64), (1024, 64), (1024, 1024)))
    monkeypatch.setattr(model_check, "N_TOKENS", 2)
    probes.make_small(monkeypatch.setattr)


def run_doctor(*args):
    return CliRunner().invoke(app, ["doctor", *args])


def test_on_this_machine_all_is_well(tmp_path):
    done = run_doctor("--disk", str(tmp_path))
    assert done.exit_code == 0, done.stdout
    says_that_all_is_well(done.stdout, n_tokens=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.full
def test_in_real_sizes_all_is_well(tmp_path):
    """As a user runs it: a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "moeflux.cli", "doctor", "--disk", str(tmp_path)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    says_that_all_is_well(done.stdout, n_tokens=12)
    assert " dispatches," in done.stdout and " commits, 9 waits" in done.stdout
    assert not list(tmp_path.iterdir())


def says_that_all_is_well(text, n_tokens):
    n_library, n_checked = len(mf.Backend("host").kernels), len(cases.KERNELS)
    assert f"compiled: {n_library} of {n_library} kernels" in text
    assert f"agree with their oracles: {n_checked} of {n_checked} kernels" in text
    assert f"demo model: {n_tokens} tokens as on the CPU, logits within" in text
    assert "no problem found" in text and "dequant_matvec_4bit_v3 " in text
    if sys.platform != "darwin":
        assert "metal:      absent: [device::" in text


def test_the_package_is_imported_without_the_doctor():
    script = (
        "import sys, moeflux;"
        "print([n for n in ('moeflux.doctor', 'rich', 'typer') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_every_kernel_of_the_contract_has_cases():
    assert set(mf.ALL_KERNELS) <= set(cases.KERNELS)
    assert all(cases.KERNELS[name].shapes for name in mf.ALL_KERNELS)


def test_json_holds_the_whole_report(tmp_path):
    done = run_doctor("--json", "--device", "host", "--disk", str(tmp_path))
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and report["problems"] == []
    (device,) = report["devices"]
    assert device["kind"] == "host" and device["limits"]["max_threads"] == 1024
    assert {check["kernel"] for check in device["checks"]} >= set(mf.ALL_KERNELS)
    assert all(check["n_cases"] > 0 and check["error"] <= 1 for check in device["checks"])
    assert device["model"]["n_tokens"] == 2 and device["model"]["problem"] is None
    assert device["model"]["dispatches"] > 100 and 0 < device["model"]["error"] < 1e-3
    assert all(rate["gb_per_s"] > 0 for rate in device["rates"])
    assert min(report["disk"]["by_batch"].values()) > 0 and report["memory_rate"] > 0
    assert report["system"]["moeflux"] == mf.__version__


def test_a_kernel_that_computes_something_else_is_a_problem(monkeypatch, tmp_path):
    family = cases.KERNELS["residual_add"]

    def off_by_a_little(rng, shape):
        case = family.build(rng, shape)
        (_, out), *_ = case.outputs()
        out.expected[-1] += 1e-3
        return case

    monkeypatch.setitem(cases.KERNELS, "residual_add", family._replace(build=off_by_a_little))
    done = run_doctor("--device", "host", "--disk", str(tmp_path))
    assert done.exit_code == 1
    (problem,) = [line for line in done.stdout.splitlines() if line.startswith("PROBLEM")]
    assert "host: residual_add: " in problem and "1 of " in problem
    assert f"oracles: {len(cases.KERNELS) - 1} of {len(cases.KERNELS)}" in done.stdout


def test_what_does_not_compile_or_run_is_a_problem_each(monkeypatch, tmp_path):
    compile_ = mf.Backend.pipeline

    def broken(self, name, constants=None):
        if name == "sigmoid_gate":
            raise mf.LibraryCompileError("[device::Library] error: expected ';'")
        return compile_(self, name, constants)

    monkeypatch.setattr(mf.Backend, "pipeline", broken)
    report = doctor.examine(["host"], disk=tmp_path)
    assert len(report.problems) == 2  # to compile and to check
    assert all("sigmoid_gate" in p and "expected ';'" in p for p in report.problems)
    (device,) = report.devices
    n_kernels = device.n_kernels
    assert f"compiled: {n_kernels - 1} of {n_kernels} kernels" in report.text()


def test_a_demo_model_that_differs_from_the_cpus_is_a_problem(monkeypatch, tmp_path):
    write = model_check._write

    def other(device):
        logits, numbers = write(device)
        if device != "cpu":
            logits[1] = logits[1] + (np.arange(len(logits[1])) == 7) * 1e-2
        return logits, numbers

    monkeypatch.setattr(model_check, "_write", other)
    done = run_doctor("--device", "host", "--disk", str(tmp_path))
    (problem,) = [line for line in done.stdout.splitlines() if line.startswith("PROBLEM")]
    assert done.exit_code == 1
    assert "host: demo model: token 1: a logit differs from the CPU's by 0.01" in problem


@pytest.mark.parametrize(
    ("found", "word"),
    [([1.0, 1.0001], "expected 0 as on the CPU, found 1"), ([np.nan, 1.0], "by inf")],
)
def test_another_token_or_nan_is_a_problem(found, word):
    numbers = dict.fromkeys(("dispatches", "commits", "waits", "tokens_per_second"), 1.0)
    check = model_check.compare([np.array([1.0001, 1.0])], [np.array(found)], numbers)
    assert word in check.problem and check.n_tokens == 0


def test_a_model_that_fails_on_the_device_is_a_problem(monkeypatch):
    def fails(**options):
        raise mf.GpuError("[device::Metal] GPU Timeout Error")

    monkeypatch.setattr(model_check, "load", fails)
    assert "GPU Timeout" in model_check.check_model("host").problem


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_absent_metal_is_a_problem_on_a_mac_only(monkeypatch, tmp_path, platform):
    def none(_):
        raise mf.NoDeviceError("[device::Metal] none today")

    monkeypatch.setattr(doctor, "Backend", none)
    monkeypatch.setattr(doctor, "sys", SimpleNamespace(platform=platform))
    report = doctor.examine(["metal"], disk=tmp_path)
    assert len(report.problems) == (platform == "darwin")
    assert "absent: [device::Metal] none today" in report.text()


def test_a_disk_that_cannot_be_measured_is_a_problem(tmp_path):
    done = run_doctor("--device", "host", "--disk", str(tmp_path / "nowhere"))
    assert done.exit_code == 1
    assert "PROBLEM: [probe] cannot write a probe file: No such file" in done.stdout


@pytest.mark.parametrize("kind", ["cuda", ""])
def test_an_unknown_device_is_one_sentence(kind):
    done = subprocess.run(
        [sys.executable, "-m", "moeflux.cli", "doctor", "--device", kind],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("moeflux: ")
    assert "metal or host" in done.stderr


# ---- rates of the matvec kernels ---------------------------------------------------------------


def test_all_forms_of_the_matvec_are_candidates():
    found = speed.candidates(mf.Backend("host"))
    variants = {("dequant_matvec_4bit" + form, 4) for form in ("", "_fast", "_v3", "_v4", "_v5")}
    assert set(found) >= variants | {("dequant_matvec_2bit", 2), ("dequant_matvec_8bit_v3", 8)}
    assert "dequant_matvec_4bit_batched" not in dict(found)


def test_a_check_is_plain_data():
    check = checks.check_kernel(mf.Backend("host"), "residual_add")
    assert dataclasses.asdict(check)["problem"] is None and check.n_cases > 0
