"""The sentence of a plan, machines that are given, known checkpoints, what runs have shown."""

import json
import math
import sys
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest

from moeflux import cli, known, state
from moeflux.commands import catalogue, seen_runs
from moeflux.memory import as_size, parse_bytes
from moeflux.planning import given, knee, plan, probe, seen, verdict
from moeflux.planning.curves import CURVES

GIB = 1 << 30
HOW = seen.How("w", "m", "cpu", "float32", "", 2, True)
ROW = next(row for row in known.checkpoints() if "qwen3-30b" in row.hub)
SIZES = plan.Sizes(**ROW.sizes)


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def run(share, hit_rate=0.5, rate=3.0, tuned=False, how=HOW):
    return seen.Run(**vars(how), share=share, hit_rate=hit_rate, tokens_per_second=rate,
                    tuned=tuned)  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "word", "status"),
    [(5.0, "GOOD", 0), (4.99, "SLOW", 3), (1.0, "SLOW", 3), (0.99, "POOR", 4), (0.0, "POOR", 4)],
)
def test_a_word_has_a_bar_and_an_exit_status(rate, word, status):
    said = verdict.judge(rate, 12 * GIB, 4 * GIB, "m")
    assert (said.word, said.status) == (word, status)


def test_the_sentence_has_speed_budget_answer_minimum_and_command():
    said = verdict.judge(9.0, 12 * GIB, int(4.1 * GIB), "qwen3.6-35b")
    assert said.sentence == (
        "GOOD: about 9 tokens/s in 12GiB; a 200-word answer takes 30 s; smallest budget 4.1GiB: "
        "moeflux chat qwen3.6-35b --memory 12GiB"
    )
    said = verdict.judge(0.5, GIB, GIB, "m", talks=False, is_measured=True, tuned_bytes=GIB // 2)
    assert said.sentence == (
        "POOR: measured here: 0.5 tokens/s in 1GiB; a 200-word answer takes 9 min; nearly as fast "
        "in 512MiB; smallest budget 1GiB: moeflux generate -m m --memory 1GiB"
    )


def test_what_does_not_fit_says_what_it_would_take():
    said = verdict.judge(9.0, 4 * GIB, 4 * GIB + 1, "m")
    assert said.status == 5 and said.answer_seconds is None and said.command == ""
    assert said.sentence == "NO: it needs 4.01GiB at least, and there is 4GiB"


@pytest.mark.parametrize("nbytes", [1, 1023, 1024, 10**6, 12 * GIB, 12 * GIB + 1, 123_456_789_012])
def test_a_size_that_is_shown_is_read_back_as_no_less(nbytes):
    shown = parse_bytes(as_size(nbytes))
    assert nbytes <= shown <= nbytes * 1.01 + 11


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "less than a second"), (30, "30 s"), (119, "119 s"),
                           (540, "9 min"), (7199, "120 min"), (7200, "2 h")],
)  # fmt: skip
def test_a_time_is_said_as_people_say_it(seconds, words):
    assert verdict.duration(seconds) == words


def test_a_given_machine_takes_reads_and_products_one_after_the_other():
    machine = given.machine(SIZES, 2e9, 50e9, 4)
    experts = SIZES.expert_token_bytes
    cold = plan.speed(SIZES, machine, 0.0)
    assert cold.read_seconds == pytest.approx(SIZES.cycle_slots * SIZES.slot_bytes / 2e9)
    kernels = (experts + SIZES.dense_token_bytes) / (given.KERNELS_SHARE * 50e9)
    stages = SIZES.hand_overs + SIZES.n_layers * probe.STAGES_OF_EXPERTS
    cache = (SIZES.kv_bytes(plan.POSITION) + SIZES.state_bytes) / 50e9
    computing = kernels + stages * given.STAGE_SECONDS + cache
    assert cold.compute_seconds == pytest.approx(computing)
    assert cold.seconds == pytest.approx(cold.read_seconds + computing)
    assert machine.disturbed() == {}


def test_a_small_machine_leaves_half_to_others():
    assert given.budget(16 * GIB) == int(0.8 * 12 * GIB)
    assert given.budget(4 * GIB) == int(0.8 * 2 * GIB)


def command(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["moeflux", *map(str, args)])
    status = SimpleNamespace(code=0)
    with suppress(SystemExit):
        try:
            cli.main()
        except SystemExit as end:
            status.code = end.code
            raise
    told = capsys.readouterr()
    assert not told.err
    return status.code or 0, told.out


def test_without_a_model_every_known_checkpoint_is_judged_the_fastest_first(monkeypatch, capsys):
    machine = ("--ram", "16GiB", "--disk-gb-s", 3, "--mem-gb-s", 100)
    status, out = command(monkeypatch, capsys, "plan", *machine, "--json")
    found = json.loads(out)["checkpoints"]
    assert status == 0 and {row["name"] for row in found} == {r.name for r in known.checkpoints()}
    rates = [row["verdict"]["tokens_per_second"] or 0.0 for row in found]
    assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1] == 0.0
    budget = json.loads(out)["memory_bytes"]
    for row in found:
        is_no = row["verdict"]["word"] == "NO"
        assert is_no == (plan.minimum_bytes(plan.Sizes(**row["sizes"])) > budget)
    _, out = command(monkeypatch, capsys, "plan", *machine)
    assert "qwen3-30b" in out and max(map(len, out.splitlines())) <= 80


def test_no_machine_is_probed_when_one_is_given(monkeypatch, capsys):
    for name in ("machine", "disk", "memory"):
        monkeypatch.setattr(probe, name, lambda *args, **named: pytest.fail("probed"))
    machine = ("--ram", "1GiB", "--disk-gb-s", 1, "--mem-gb-s", 20)
    status, out = command(monkeypatch, capsys, "plan", "demo", "--json", *machine)
    answer = json.loads(out)
    assert status == verdict.judge(answer["verdict"]["tokens_per_second"], 2, 1, "").status
    assert answer["machine"]["disk"]["mode"] == "given" and answer["disturbed"] == {}
    assert answer["verdict"]["command"].startswith("moeflux generate -m demo ")
    status, out = command(monkeypatch, capsys, "plan", "demo-chat", "--json", "--ram", "8MiB",
                          *machine[2:])  # fmt: skip
    assert status == 5 and json.loads(out)["verdict"]["word"] == "NO"


def test_more_memory_makes_no_known_checkpoint_slower():
    rates = [catalogue.verdict(ROW, n * GIB, (2e9, 50e9), 4).tokens_per_second or 0
             for n in (2, 4, 8, 16, 32)]  # fmt: skip
    assert rates[0] == 0 and rates == sorted(rates) and rates[1] < rates[-1]


def test_runs_are_kept_by_what_they_hold_for():
    other = replace(HOW, precision="int8")
    for kept in (run(0.5), run(0.25, rate=1.0), run(0.5, rate=4.0), run(0.5, how=other)):
        seen.note(kept)
    assert seen.of(HOW) == [run(0.25, rate=1.0), run(0.5, rate=4.0)]
    assert seen.of(other) == [run(0.5, how=other)]
    assert seen.near(seen.of(HOW), 0.51) == run(0.5, rate=4.0)
    assert seen.near(seen.of(HOW), 0.4) is None and seen.tuned_share(seen.of(HOW)) is None
    seen.note(run(0.75, tuned=True))
    seen.note(run(0.3, tuned=True))
    assert seen.tuned_share(seen.of(HOW)) == 0.3 and len(seen.of(HOW)) == 3


@pytest.mark.parametrize(
    "damage",
    [{"share": 2.0}, {"hit_rate": math.nan}, {"tokens_per_second": 0.0}, {"threads": "2"},
     {"more": 1}],
)  # fmt: skip
def test_what_is_no_run_is_left_out(damage):
    seen.note(run(0.5))
    (kept,) = state.read(seen.NAME)
    state.write(seen.NAME, [kept | damage, 7, kept])
    assert seen.of(HOW) == [run(0.5)]
    state.place(seen.NAME).write_text("[" * 10**5)
    assert seen.of(HOW) == []


def test_a_curve_goes_through_what_runs_showed_and_follows_its_own_shape_between():
    base = CURVES["qwen3_moe"].hit_rate
    curve = seen.bent(base, [run(0.25, 0.6), run(0.5, 0.7)], (128, 8))
    assert curve.hit_rate(0.25) == pytest.approx(0.6)
    assert curve.hit_rate(0.5) == pytest.approx(0.7)
    assert curve.hit_rate(1.0) == 1
    halfway = base(0.375) + (0.6 - base(0.25) + 0.7 - base(0.5)) / 2
    assert curve.hit_rate(0.375) == pytest.approx(halfway, abs=0.01)
    rates = [curve.hit_rate(i / 100) for i in range(101)]
    assert rates == sorted(rates)


def without_probe(monkeypatch):
    machine = given.machine(SIZES, 1e9, 20e9, 2)
    monkeypatch.setattr(probe, "machine", lambda *args, **named: machine)


def test_bench_of_a_text_is_what_the_next_plan_says(tmp_path, monkeypatch, capsys):
    text = tmp_path / "text"
    text.write_text("def f(x):\n    return x\n" * 40)
    short = ("--prompt", 8, "--warmup", 4, "-n", 8, "--memory", "17MB", "--threads", 2)
    without_probe(monkeypatch)
    _, out = command(monkeypatch, capsys, "bench", *short)
    assert state.read(seen.NAME) == []  # random tokens
    _, out = command(monkeypatch, capsys, "bench", *short, "--text", text, "--json")
    (measured,) = json.loads(out)["runs"]
    (kept,) = state.read(seen.NAME)
    share = kept["share"]
    assert share == measured["slots"] / 320
    context = ("--context", 21, "--threads", 2, "--json")
    _, out = command(monkeypatch, capsys, "plan", "demo", "--memory", "17MB", *context)
    answer = json.loads(out)
    assert answer["curve"] == "as runs on this machine showed at 1 budget"
    assert answer["routing"] == ["uniform", "measured"]
    near = abs(answer["rows"][0]["share"] - share) <= seen.NEAR
    assert answer["verdict"]["is_measured"] == near
    if near:
        rate = answer["verdict"]["tokens_per_second"]
        assert rate == measured["decode"]["tokens_per_second"]


def test_the_knee_is_the_fewest_slots_that_keep_the_speed():
    for bend in (40, 130, 320):
        found = knee.find(lambda n, bend=bend: min(n, bend) / bend, 4, 320, 0.9)
        assert 0.9 * bend <= found.at <= 0.9 * bend + knee.CLOSE * 320 + 1
        assert found.rate >= 0.9 * found.best
    assert knee.find(lambda n: 1.0, 4, 320, 0.9).at == 4
    assert knee.find(lambda n: 1.0, 4, 4, 0.9).at == 4


def test_an_answer_that_does_not_hold_is_moved_up():
    """The first measurement of the most slots was disturbed: all look as fast as it."""
    rates = iter([0.1])
    found = knee.find(lambda n: next(rates, n / 320), 4, 320, 0.9)
    assert found.at == 320


def test_a_budget_for_slots_leaves_room_for_them():
    for slots in (SIZES.cycle_slots, SIZES.n_experts // 2, SIZES.n_experts):
        assert plan.fit(SIZES, seen_runs.budget(SIZES, slots)).slots == slots
    assert seen_runs.budget(SIZES, 1) == plan.minimum_bytes(SIZES)


def test_tune_runs_at_several_budgets_and_the_next_plan_names_what_it_found(monkeypatch, capsys):
    without_probe(monkeypatch)
    monkeypatch.setattr(knee, "CLOSE", 0.5)  # few runs
    same = ("--context", 64, "--threads", 2)
    short = ("-n", 4, "--memory", "24MB", "--json")
    _, out = command(monkeypatch, capsys, "tune", "demo", *short, *same)
    found = json.loads(out)
    tried = {run["memory_bytes"]: run["tokens_per_second"] for run in found["tried"]}
    assert list(tried) == sorted(tried) and 2 <= len(tried) <= 6
    assert tried[found["memory_bytes"]] == found["tokens_per_second"]
    kept = [run for run in state.read(seen.NAME) if run["tuned"]]
    assert len(kept) == 1 and len(state.read(seen.NAME)) >= 2
    _, out = command(monkeypatch, capsys, "plan", "demo", "--memory", "1GB", "--json", *same)
    answer = json.loads(out)
    spread = plan.Sizes(**answer["sizes"])
    slots = math.ceil(kept[0]["share"] * spread.n_experts)
    assert answer["verdict"]["tuned_bytes"] == seen_runs.budget(spread, slots)
    assert "nearly as fast in " in answer["verdict"]["sentence"]
