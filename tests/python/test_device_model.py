"""Models on a device: the exactness contract holds there, values are the CPU's within a tolerance,
everything is booked, and what is handed to the device is counted.

Slots, budgets and reads: test_gpu_exactness.py. Goldens and the demo model: test_gpu_goldens.py.
"""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import typer

import moeflux
from moeflux import device as device_module
from moeflux.checkpoint import open_checkpoint
from moeflux.commands.plan import plan as plan_command
from moeflux.families import build_spec
from moeflux.planning import plan, probe, rates
from oracle import build
from support.budget import smallest_budget
from support.devices import DEVICES

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(5)).integers(0, 250, 60)]
PROMPT = 45
CHUNKS = (30, 15, *[1] * 15)
SHAPE = {"num_experts": 12, "num_experts_per_tok": 3}
FAMILIES = ("qwen3_moe", "qwen3_next")
TOLERANCE = 2e-4  # of logits of some units; the goldens' own is wider (tests/oracle/goldens.py)

pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("device") / request.param
    return build(path, family=request.param, form="mlx-q4", seed=7, **SHAPE)


def load(path, device, **options):
    return moeflux.load(path, device=device, **{"memory": "256MiB", "context": 64} | options)


def feed(session, chunks=CHUNKS):
    out, at = [], session.position
    for size in chunks:
        out.append(session.step(TOKENS[at : at + size], all_logits=True))
        at += size
    return np.concatenate(out)


def run(path, device, **options):
    model = load(path, device, **options)
    return feed(model.session()), model.stats


@pytest.fixture(scope="module")
def resident(folder):
    """Of a device: logits and stats with every expert in memory, computed once."""
    found = {}

    def of(device):
        if device not in found:
            found[device] = run(folder, device)
            assert found[device][1]["evictions"] == 0 and np.isfinite(found[device][0]).all()
        return found[device]

    return of


# ---- values ------------------------------------------------------------------------------------


def test_logits_are_the_cpus_within_a_tolerance(folder, resident, device):
    expected, _ = run(folder, "cpu")
    logits, stats = resident(device)
    assert np.abs(logits - expected).max() <= TOLERANCE
    assert stats["device"] == device and stats["dispatches"] > 0


# ---- exactness ---------------------------------------------------------------------------------


def measured(path, device):
    checkpoint = open_checkpoint(path)
    native = device_module.open_device(device)
    return plan.measure(checkpoint, build_spec(checkpoint), 64, 1, device=native)


def test_the_plan_of_a_device_is_what_its_load_takes_and_not_a_byte_less(folder, device):
    memory = plan.minimum_bytes(measured(folder, device))
    assert memory == smallest_budget(folder, context=64, device=device)
    with pytest.raises(moeflux.MemoryBudgetError, match=str(memory)):
        load(folder, device, memory=memory - 1)


def test_sessions_interleaved_and_in_a_batch_equal_each_alone(folder, resident, device):
    expected = resident(device)[0]
    model = load(folder, device, max_slots=4)
    sessions = [model.session() for _ in range(3)]
    out = [[], [], []]
    for session, rows in zip(sessions, out, strict=True):
        rows.extend(feed(session, CHUNKS[:2]))
    for token in TOKENS[PROMPT : PROMPT + 5]:  # in turn
        for session, rows in zip(sessions, out, strict=True):
            rows.append(session.step([token]))
    for rows in out:
        assert np.array_equal(np.stack(rows), expected[: PROMPT + 5])
    together = model.step_batch([(session, [TOKENS[PROMPT + 5]]) for session in sessions])
    for logits in together:  # several rows in a pass: other kernels than one
        assert np.abs(logits - expected[PROMPT + 5]).max() <= TOLERANCE


def test_save_restore_and_reset_equal_replay(folder, resident, device):
    expected = resident(device)[0]
    model = load(folder, device, max_slots=4)
    session = model.session()
    feed(session, CHUNKS[:3])
    snapshot = session.save()
    rest = feed(session, CHUNKS[3:])
    session.restore(snapshot)
    fresh = model.session()
    fresh.restore(snapshot)
    for other in (session, fresh):
        assert np.array_equal(feed(other, CHUNKS[3:]), rest)
    assert np.array_equal(rest, expected[PROMPT + 1 :])
    session.reset()
    assert np.array_equal(feed(session), expected)


def test_scores_and_overridden_routing_are_the_cpus(folder, device):
    def found(name):
        model = load(folder, name, max_slots=4)
        forced = moeflux.Routing(top_k=2)
        scores = model.session().score(TOKENS[:20])
        return [np.asarray(scores[0]), model.session(routing=forced).step(TOKENS[:7])]

    for ours, cpus in zip(found(device), found("cpu"), strict=True):
        np.testing.assert_allclose(ours, cpus, atol=TOLERANCE, rtol=1e-4)


# ---- what is handed over -----------------------------------------------------------------------


def moe_layers(path):
    model = load(path, "cpu")
    experts = model.session().step(TOKENS[:1], capture={"experts"})["experts"]
    return int((experts[0, :, 0] >= 0).sum())


# The numbers of docs/kernels.md: of a layer whose experts are all in memory. Experts go to the
# device in as many groups as they come in, one at least, and a group is two dispatches. Sums into
# the residual stream are in the norm that follows, which MOE has: two norms, and a router's two.
MIXER, GATED_MIXER, DELTA_NET, MOE, SHARED, GROUP = 4, 6, 9, 4, 3, 2
GUESS = 3  # of the layer after this one: a norm, and a router's two
DISPATCHES_OF_A_LAYER = {"qwen3_moe": MIXER + MOE, "qwen3_next": DELTA_NET + MOE + SHARED}
MORE = {"qwen3_moe": 3, "qwen3_next": 3 + GATED_MIXER - DELTA_NET}  # one layer has attention


def costs_of_tokens(model, session, **options):
    """Growth of the counters over each token of decode."""
    costs = []
    for token in TOKENS[PROMPT:]:
        before = model.stats
        session.step([token], **options)
        after = model.stats
        cost = {name: after[name] - before[name] for name in ("waits", "commits", "dispatches")}
        cost["misses"] = after["misses"] - before["misses"]
        cost["kernels"] = {
            name: n - before["kernels"].get(name, 0) for name, n in after["kernels"].items()
        }
        assert cost["dispatches"] == sum(cost["kernels"].values())
        costs.append(cost)
    return costs


@pytest.mark.parametrize("seen", [False, True])
def test_a_token_costs_exact_numbers_of_waits_commits_and_dispatches(folder, device, seen):
    layers = moe_layers(folder)
    model = load(folder, device, read_ahead=False)
    session = model.session()
    session.step(TOKENS)  # brings every expert that is needed below into memory
    session.reset()
    session.step(TOKENS[:PROMPT])
    costs = costs_of_tokens(model, session, capture={"experts"} if seen else ())
    of_layer = DISPATCHES_OF_A_LAYER[folder.name] + GROUP
    dispatches = MORE[folder.name] + layers * of_layer
    for cost in costs:
        assert cost["misses"] == 0
        assert cost["waits"] == (layers + 1 if seen else 1)
        assert cost["commits"] == layers + 1
        assert cost["dispatches"] == dispatches and cost["kernels"] == costs[0]["kernels"]
    if folder.name == "qwen3_moe":  # as Qwen3-30B-A3B is made, of 48 layers
        assert MORE[folder.name] + 48 * of_layer <= 490


@pytest.mark.parametrize("guesses", [True, False])
def test_a_token_that_streams_waits_as_often_and_commits_at_most_twice_a_layer(
    folder, device, guesses
):
    layers, top_k = moe_layers(folder), SHAPE["num_experts_per_tok"]
    model = load(folder, device, max_slots=3, read_ahead=guesses)
    session = model.session()
    session.step(TOKENS[:PROMPT])
    least = MORE[folder.name] + layers * (DISPATCHES_OF_A_LAYER[folder.name] + GROUP)
    least += (layers - 1) * GUESS * guesses
    capture = () if guesses else {"experts"}  # which nothing is told ahead of
    for cost in costs_of_tokens(model, session, capture=capture):
        assert cost["misses"] > 0
        assert cost["waits"] == layers + 1
        assert layers + 1 <= cost["commits"] <= 2 * layers + 1  # a read may be in time
        assert least <= cost["dispatches"] <= least + layers * (top_k - 1) * GROUP


def test_a_token_that_streams_and_is_told_ahead_waits_no_more_often(folder, device):
    layers = moe_layers(folder)
    model = load(folder, device, max_slots=3, read_ahead=False)
    session = model.session()
    session.step(TOKENS[:PROMPT])
    for cost in costs_of_tokens(model, session):
        assert cost["misses"] > 0 and cost["kernels"]["find_experts"] >= layers
        assert cost["waits"] <= layers + 1
        assert layers + 1 <= cost["commits"] <= (2 + 3) * layers + 1  # three in vain


def test_a_prompt_waits_once_a_layer_and_pass(folder, device):
    layers = moe_layers(folder)
    model = load(folder, device)
    model.session().step(TOKENS)
    assert model.stats["passes"] == 1
    assert model.stats["waits"] == layers + 1


def test_the_cpu_counts_jobs_of_threads_and_no_kernels(folder, device):
    _, stats = run(folder, "cpu")
    assert stats["dispatches"] > 0 and stats["kernels"] == {} and stats["device"] == "cpu"


# ---- refusals and interrupts -------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_another_precision_is_the_cpus(device, precision):
    with pytest.raises(moeflux.FormatError, match=f"float32 on device {device}"):
        load(None, device, precision=precision)


def test_sessions_slots_and_snapshots_take_what_they_say_of_the_budget(folder, device):
    """That the device keeps just what is booked: tests/cpp/test_gpu_limits.cpp."""
    sizes = measured(folder, device)
    model = load(folder, device, memory="64MiB")
    at_first = model.stats
    session = model.session()
    assert model.stats["live_bytes"] - at_first["live_bytes"] == sizes.state_bytes
    feed(session, CHUNKS[:3])
    slots = model.stats["slots"] - at_first["slots"]
    grown = sizes.session_bytes + slots * sizes.slot_bytes
    assert slots > 0 and model.stats["live_bytes"] - at_first["live_bytes"] == grown
    snapshot = session.save()
    assert model.stats["live_bytes"] - at_first["live_bytes"] == grown + snapshot.nbytes
    assert model.stats["peak_bytes"] <= model.stats["memory_bytes"] == 64 << 20


@pytest.mark.full
def test_an_interrupted_step_leaves_the_session_as_it_was(tmp_path, device):
    """SIGINT in the middle of a prompt; the same call again gives the undisturbed result."""
    folder = build(tmp_path / "m", family="qwen3_next", form="mlx-q4", num_hidden_layers=8)
    script = """
import os, signal, sys, threading, time
import numpy as np, moeflux
def load(): return moeflux.load(sys.argv[1], memory="256MiB", context=128, device=sys.argv[2])
tokens = [i * 7 % 250 for i in range(120)]
expected = load().session().step(tokens)
session = load().session()
begin = time.monotonic()
session.step(tokens)
seconds = time.monotonic() - begin

def interrupted():  # whether the signal came in the middle of a step
    stepping = False
    threading.Timer(seconds * 1.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        while True:
            session.reset()
            stepping = True
            session.step(tokens)
            stepping = False
    except KeyboardInterrupt:
        return stepping and session.position < len(tokens)

while not interrupted():  # a fast device may have been between two steps
    pass
assert session.position == 0
print("interrupted")
assert np.array_equal(session.step(tokens), expected)
print("equal")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), device],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["interrupted", "equal"], done.stderr


def test_auto_stays_within_what_a_device_advises(device):
    class Advice:
        limits = {"working_set_bytes": 1000}  # noqa: RUF012

    assert device_module.device_budget("auto", Advice()) == 1000
    assert device_module.device_budget("1000", Advice()) == 1000
    with pytest.raises(moeflux.MemoryBudgetError, match=r"of 1001 bytes .* memory=1000 would do"):
        device_module.device_budget("1001", Advice())
    assert device_module.device_budget("2000", None) == 2000
    Advice.limits = {"working_set_bytes": 0}  # no advice
    assert device_module.device_budget("auto", Advice()) > 1000


def test_a_plan_stays_within_what_a_device_advises(folder, device, monkeypatch, capsys):
    def plan_of(*memory, device=device):
        show(
            str(folder), memory=list(memory), context=64, device=device, hit_rate=0.5, as_json=True
        )
        return json.loads(capsys.readouterr().out)

    def show(*args, **options):
        with suppress(typer.Exit):  # its status is the verdict
            plan_command(*args, **{"threads": 1, "folder": None, "plot": None} | options)

    machine = rates.Machine(rates.DiskRate({1: 1e9}, "direct"), 1e9, rates.KernelRate(1e9, 0.0), 1)
    monkeypatch.setattr(probe, "machine", lambda *args: machine)  # no rate matters here
    monkeypatch.setattr(device_module, "advised_bytes", lambda device: None)
    assert plan_of(device="auto")["device"] == what_auto_is()
    free = plan_of()
    assert free["device"] == device
    least, most = free["minimum_bytes"], max(row["memory_bytes"] for row in free["rows"])
    advised = (least + most) // 2
    monkeypatch.setattr(device_module, "advised_bytes", lambda device: advised)
    kept = plan_of()
    assert kept["advised_bytes"] == advised
    budgets = [row["memory_bytes"] for row in kept["rows"]]
    assert budgets[0] == least and budgets[-1] == advised
    assert plan_of("auto")["rows"][0]["memory_bytes"] <= advised
    with pytest.raises(moeflux.MemoryBudgetError, match=f"memory={advised} would do"):
        plan_of(str(advised + 1))
    monkeypatch.setattr(device_module, "advised_bytes", lambda device: least - 1)
    with pytest.raises(moeflux.MemoryBudgetError, match=f"at least {least}"):
        plan_of()


@pytest.mark.parametrize(
    "command",
    [("generate", "def", "-n", "3"), pytest.param(("plan",), marks=pytest.mark.full)],
)
def test_commands_take_a_device(command, device):
    done = subprocess.run(
        [sys.executable, "-m", "moeflux.cli", *command, "--device", device, "--context", "64",
         "--memory", "40MB", "--json"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    if command[0] == "plan":
        assert answer["device"] == device and answer["machine"]["kernels"]["bytes_per_second"] > 0
    else:
        assert answer["stats"]["device"] == device and len(answer["tokens"]) == 3


def what_auto_is():
    return "metal" if has_metal() else "cpu"


def has_metal():
    if "metal" in DEVICES:
        return True
    try:
        moeflux.Backend("metal")
    except moeflux.NoDeviceError:  # not every Mac has one: a virtual machine may not
        return False
    return True


@pytest.fixture(autouse=True)
def all_are_checked(monkeypatch):
    monkeypatch.setattr(device_module, "has_passed", lambda _: True)


def test_auto_is_metal_where_there_is_one_and_else_the_cpu(folder, device):
    found, there = load(folder, "auto"), load(folder, what_auto_is())
    assert found.stats["device"] == what_auto_is()
    assert np.array_equal(feed(found.session()), feed(there.session()))
    assert load(folder, "auto", precision="int8").stats["device"] == "cpu"


def test_auto_is_the_cpu_where_a_precision_is(device):
    kinds = [
        device_module.kind_of(device_module.open_device("auto", *precisions))
        for precisions in ((), ("float32",), ("int8",), ("float32", "bfloat16"))
    ]
    assert kinds == [what_auto_is(), what_auto_is(), "cpu", "cpu"]


def test_the_benchmark_compares_a_device_with_the_cpu_and_says_what_is_no_gpu(device, tmp_path):
    script = Path(__file__).parents[2] / "benchmarks/metal.py"
    out = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, str(script), "--device", device, "--prompt", "5", "--tokens", "3",
         "--no-kernels", "--out", str(out)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    on_device, on_cpu = found["runs"]
    assert found["same_tokens"] and len(on_device["tokens"]) == 3
    assert (on_device["device"], on_cpu["device"]) == (device, "cpu")
    assert on_device["per_token"]["waits"] == 9  # a MoE layer and the logits
    dispatches = on_device["per_token"]["dispatches"]
    assert dispatches == pytest.approx(sum(on_device["kernels_per_token"].values()))
    assert ("no GPU's" in found["note"]) == (device == "host")


def test_an_unknown_device_and_one_that_is_not_there_are_typed(device):
    with pytest.raises(moeflux.FormatError, match="cuda"):
        load(None, "cuda")
    if not has_metal():
        reason = "no Metal device" if sys.platform == "darwin" else "not for macOS"
        with pytest.raises(moeflux.NoDeviceError, match=reason):
            load(None, "metal")
