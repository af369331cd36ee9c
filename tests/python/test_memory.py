"""What `memory=` comes to: limits of machine and containers, and what others were promised."""

import gc
import logging
import os

import pytest

import moeflux
from moeflux import memory
from oracle import build

GB = 10**9


def tree(tmp_path, monkeypatch, cgroup, files, meminfo="MemAvailable: 8000000 kB\n"):
    """A /proc and a /sys/fs/cgroup of our own."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(cgroup)
    (proc / "meminfo").write_text(meminfo)
    for name, value in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(f"{value}\n")
    monkeypatch.setattr(memory, "_PROC", proc)
    monkeypatch.setattr(memory, "_CGROUPS", groups)


V2 = "0::/pod/box\n"
V1 = "12:cpu,cpuacct:/other\n9:hugetlb,memory:/pod/box\n0::/\n"


def v1(folder, limit, used):
    return {f"memory/{folder}memory.limit_in_bytes": limit,
            f"memory/{folder}memory.usage_in_bytes": used}  # fmt: skip


def v2(folder, limit, used):
    return {f"{folder}memory.max": limit, f"{folder}memory.current": used}


@pytest.mark.parametrize(
    ("cgroup", "files", "available", "total"),
    [
        (V2, v2("pod/box/", GB, GB // 4), GB * 3 // 4, GB),
        (V2, v2("pod/box/", "max", 5) | v2("pod/", 2 * GB, GB), GB, 2 * GB),
        (V2, v2("pod/box/", 3 * GB, 5) | v2("pod/", 2 * GB, GB), GB, 2 * GB),
        (V2, v2("pod/box/", 3 * GB, 5) | v2("", 2 * GB, GB), GB, 2 * GB),
        (V2, v2("pod/box/", GB, 2 * GB), 0, GB),
        (
            V2,
            v2("pod/box/", GB, GB) | {"pod/box/memory.stat": f"anon 5\ninactive_file {GB // 2}"},
            GB // 2,
            GB,
        ),  # files that were read and are not in use
        (V2, v2("pod/box/", GB, 5) | {"pod/box/memory.stat": "damaged"}, GB - 5, GB),
        (V2, v2("other/", GB, 5), 8000000 * 1024, None),
        (V1, v1("pod/box/", GB, GB // 4), GB * 3 // 4, GB),
        (V1, v1("pod/box/", 2**63 - 4096, 5) | v1("pod/", 2 * GB, GB), GB, 2 * GB),
        (V1, v1("pod/box/", 2**63 - 4096, 5), 8000000 * 1024, None),
        (
            V1,
            v1("pod/box/", GB, GB) | {"memory/pod/box/memory.stat": f"total_inactive_file {GB}"},
            GB,
            GB,
        ),
    ],
)
def test_every_group_above_a_process_limits_it(
    tmp_path, monkeypatch, cgroup, files, available, total
):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    tree(tmp_path, monkeypatch, cgroup, files)
    assert memory.available_bytes() == available
    assert memory.total_bytes() == (total or machine)


def test_without_proc_half_of_the_machine_is_available(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    assert memory.available_bytes() == memory.total_bytes() // 2


@pytest.fixture
def auto(sole_models, monkeypatch):
    """What `auto` leaves of 4 GB to models of this test."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 4 * GB)
    return lambda: 4 * GB - round(memory.budget_bytes("auto") / memory.HEAD_ROOM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("m") / "m", family="qwen3_moe", form="mlx-q4")


def test_auto_leaves_what_a_model_was_promised_and_has_not_used(auto):
    model = moeflux.load(memory="15MB", context=64)
    stats = model.stats
    assert auto() == pytest.approx(stats["memory_bytes"] - stats["live_bytes"], abs=2)
    assert auto() > 5e5
    model.session().step(list(range(60)))  # experts come in
    assert auto() == pytest.approx(15e6 - model.stats["live_bytes"], abs=2)


def test_a_model_is_promised_no_more_than_its_experts(auto, folder):
    model = moeflux.load(folder, memory="2GB", context=64)
    stats = model.stats
    experts = (stats["max_slots"] - stats["slots"]) * stats["slot_bytes"]
    assert auto() == pytest.approx(experts, abs=2) and 0 < experts < 10e6


def test_a_promise_ends_with_the_last_session(auto, folder):
    session = moeflux.load(folder, memory="2GB", context=64).session()
    gc.collect()
    assert auto() > 0
    del session
    gc.collect()
    assert auto() == pytest.approx(0, abs=2)


def test_a_model_that_is_being_loaded_was_promised_its_budget(auto, folder):
    with memory.promise(lambda: 3 * GB) as nbytes:
        assert nbytes == 3 * GB and auto() == pytest.approx(3 * GB, abs=2)
    with pytest.raises(moeflux.MemoryBudgetError):
        moeflux.load(folder, memory=1000, context=64)
    assert auto() == pytest.approx(0, abs=2)


def test_a_budget_beyond_the_machine_is_refused_with_both_numbers(folder, monkeypatch):
    total = memory.total_bytes()
    with pytest.raises(
        moeflux.MemoryBudgetError, match=f"at most {total} bytes, found {total + 1}"
    ):
        moeflux.load(folder, memory=total + 1, context=64)
    assert moeflux.load(folder, memory=total, context=64).stats["memory_bytes"] == total


def test_a_child_process_owes_nothing(folder):
    model = moeflux.load(folder, memory="2GB", context=64)
    assert memory.promised_bytes() > 0
    child = os.fork()
    if child == 0:
        os._exit(memory.promised_bytes() != 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    del model


def test_the_log_says_what_auto_came_to(sole_models, monkeypatch, caplog, folder):
    monkeypatch.setattr(memory, "available_bytes", lambda: 4 * GB)
    with caplog.at_level(logging.INFO, "moeflux"):
        model = moeflux.load(folder, context=64)
    assert f"takes {model.stats['memory_bytes']} bytes" in caplog.text
    assert "another process may take the same" in caplog.text
