"""The memory budget is honoured: by our own count, by the kernel's, and under a cgroup limit."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

import moeflux
from oracle import build
from oracle.big import build_big
from support import budget, cgroup
from support.few import few

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
    for session in sessions:
        session.step([1, 2, 3])
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
            sessions[-1].step([4])
    assert sessions[1:] and sessions[0].step([1, 2, 3]).shape == (model.vocab_size,)


def first_refusal(path, memory, options):
    """Runs all that may find no room: (which call finds none, the budget that it names)."""
    model = moeflux.load(path, memory=memory, **options)
    one = model.session()
    prompt = [i % 100 for i in range(one.context - 8)]  # takes what the minimum has for a session
    masked = moeflux.Routing(mask={0: [1, 2]})
    calls = [
        lambda: one.step(prompt),
        one.save,
        model.session,
        lambda: model.session(routing=masked),
        lambda: model.step_batch([(one, [3, 4]), (held[2], [5])]),
        one.save,
        lambda: held[2].score([6, 7, 8], routing=masked),
        lambda: held[2].save(),
        lambda: held[3].save(),
    ]
    held = []
    for index, call in enumerate(calls):
        try:
            held.append(call())
        except moeflux.MemoryBudgetError as error:
            return index, budget.named(error)
    return len(calls), memory


@pytest.mark.parametrize("read_ahead", few(1, [False, True]))
@pytest.mark.parametrize(
    ("family", "device", "context"),
    [
        ("qwen3_moe", "cpu", 64),
        ("qwen3_next", "cpu", 600),
        pytest.param("gpt_oss", "cpu", 600, marks=pytest.mark.full),
        pytest.param("qwen3_next", "host", 64, marks=pytest.mark.full),
    ],
)
def test_the_budget_that_a_refusal_names_is_the_smallest_that_does(
    tmp_path, family, device, context, read_ahead
):
    path = build(tmp_path / "m", family=family, form="mlx-q4", seed=7)
    options = {"device": device, "context": context, "threads": 2, "read_ahead": read_ahead}
    memory = budget.smallest_budget(path, **options)
    refused = []
    while (found := first_refusal(path, memory, options))[0] < 9:
        index, memory = found
        refused.append(index)
        assert first_refusal(path, memory - 1, options) == (index, memory)
    assert refused == sorted(set(refused)) and {1, 2, 3} <= set(refused)
    with pytest.raises(moeflux.MemoryBudgetError) as refusal:
        moeflux.load(path, memory=memory, **options | {"context": 40 * context})
    memory = budget.named(refusal.value)
    assert budget.smallest_budget(path, **options | {"context": 40 * context}) == memory


def test_memory_that_the_system_refuses_is_an_error_that_leaves_the_model_as_it_was():
    """Below its budget, as under `ulimit -v` or without overcommit."""
    script = """
        import resource, numpy as np
        import moeflux as mf

        def limit(spare):
            pages = int(open("/proc/self/statm").read().split()[0])
            nbytes = pages * resource.getpagesize() + spare if spare else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_AS, (nbytes, resource.RLIM_INFINITY))

        def refused(call, what):
            try:
                call()
            except mf.MemoryBudgetError as error:
                words = f"no room for {what}: the system refuses" if what else "no memory left"
                assert words in str(error), error
                return
            raise SystemExit("not refused")

        model = mf.load(memory="900MB", context=60_000, threads=2)
        session = model.session()
        session.step([1, 2, 3])
        limit(8 << 20)
        other = model.session()
        refused(lambda: other.step([5] * 20_000), "the KV cache")
        assert other.position == 0
        limit(0)
        session.step([4, 5])
        session.step([6] * 2000)
        numbers = [0] * 2_000_000
        live = model.stats["live_bytes"]
        limit(1 << 20)
        kept = []
        refused(lambda: kept.extend(session.save() for _ in range(9)), "a snapshot")
        kept.clear()
        reads = [[(1, numbers, numbers)]]
        refused(lambda: mf._core.probe_reads([], reads, 1, 1, 0.1, True, None), None)
        assert model.stats["live_bytes"] == live
        found = session.step([7])
        limit(0)
        other.step([1, 2, 3, 4, 5] + [6] * 2000)
        assert np.array_equal(other.step([7]), found)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_small_budget_is_enough_on_a_machine_of_many_cores(monkeypatch):
    monkeypatch.setattr("moeflux.device.usable_cores", lambda: 96)
    for memory in ("14MB", "17MB", "32MB"):
        assert moeflux.load(memory=memory, context=256).session().step([1]).shape == (4096,)
