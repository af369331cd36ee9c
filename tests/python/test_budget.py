"""The memory budget is honoured: by our own count, by the kernel's, and under a cgroup limit."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

import moeflux
from oracle.big import build_big
from support import cgroup

BUDGET = 40 << 20
SLACK = 150 << 20  # interpreter and imported packages, outside the budget
SCRIPT = textwrap.dedent("""
    import json, sys
    import moeflux
    from moeflux import _core  # and what generation imports, before the baseline is taken
    import numpy, tokenizers

    def status(key):
        for line in open("/proc/self/status"):
            if line.startswith(key):
                return int(line.split()[1]) * 1024

    before = status("VmRSS:")
    model = moeflux.load(sys.argv[1], memory=int(sys.argv[2]), context=256)
    session = model.session()
    peaks = []
    for step in range(12):
        session.step([(7 * step + i) % 100 for i in range(12 if step == 0 else 1)])
        peaks.append(model.stats["live_bytes"])
    print(json.dumps({"live": max(peaks), "grown": status("VmHWM:") - before, **model.stats}))
""")


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    folder = build_big(
        tmp_path_factory.mktemp("big") / "m", family="qwen3_moe", num_hidden_layers=4,
        hidden_size=512, moe_intermediate_size=512, num_experts=128, num_experts_per_tok=8,
        vocab_size=512, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
    )  # fmt: skip
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size >= 5 * BUDGET
    return folder


def check(output):
    stats = json.loads(output)
    assert stats["live"] <= BUDGET and stats["peak_bytes"] <= BUDGET
    assert stats["grown"] <= BUDGET
    assert stats["evictions"] > 0 and stats["misses"] > 0
    assert stats["bytes_read"] > BUDGET  # experts really came and went


def test_checkpoint_of_five_budgets_stays_below_the_budget(big):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(big), str(BUDGET)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check(done.stdout)


@pytest.mark.skipif(not cgroup.available(), reason="needs root and a writable memory cgroup")
def test_checkpoint_of_five_budgets_runs_in_a_cgroup_of_budget_and_slack(big):
    cgroup.drop_page_cache(big)
    limit = BUDGET + SLACK
    done = cgroup.run(
        [sys.executable, "-c", SCRIPT, str(big), str(BUDGET)], limit, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.peak_bytes <= limit
    check(done.stdout)


def test_session_without_room_is_refused_with_the_number_it_takes(big):
    with pytest.raises(moeflux.MemoryBudgetError, match=r"at least \d+"):
        moeflux.load(big, memory=BUDGET, context=1 << 20)


def test_sessions_and_snapshots_take_slots_back_and_are_booked(big):
    model = moeflux.load(big, memory=BUDGET, context=256)
    first = model.session()
    first.step(list(range(100)))
    full = model.stats
    sessions = [model.session() for _ in range(4)]
    assert model.stats["slots"] < full["slots"]
    assert model.stats["live_bytes"] <= BUDGET
    before = model.stats
    snapshot = first.save()
    after = model.stats
    given_back = (before["slots"] - after["slots"]) * after["slot_bytes"]
    assert after["live_bytes"] == before["live_bytes"] + snapshot.nbytes - given_back <= BUDGET
    del snapshot, sessions
    assert model.stats["live_bytes"] < after["live_bytes"]


def test_too_many_sessions_are_refused_and_the_others_live(big):
    model = moeflux.load(big, memory=BUDGET, context=2048)
    sessions = []
    with pytest.raises(moeflux.MemoryBudgetError):
        for _ in range(1000):
            sessions.append(model.session())
    assert sessions and sessions[0].step([1, 2, 3]).shape == (model.vocab_size,)
