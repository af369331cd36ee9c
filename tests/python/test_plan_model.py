"""The plan of a model: sizes that a real load confirms, boundaries, speed as the formula says."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest

import moeflux
from moeflux import cli
from moeflux.checkpoint import open_checkpoint
from moeflux.device import CACHES, PRECISIONS, default_threads
from moeflux.families import build_spec
from moeflux.memory import as_size
from moeflux.packing import pack
from moeflux.planning import line_chart, plan, probe, rates, verdict
from moeflux.synth import Recipe, synthesize
from oracle import build
from support.commands import run_moeflux
from support.fake_hub import FakeHub

CONTEXT, THREADS = 128, 2
SHAPES = [
    ("qwen3_moe", "mlx-q4", {}),
    ("qwen3_moe", "hf-bf16", {"tie_word_embeddings": True, "mlp_only_layers": [1]}),
    ("qwen3_next", "mlx-q4", {"num_experts": 12}),
    ("qwen3_5_moe", "hf-bf16", {}),
    ("nemotron_h", "mlx-q4", {"moe_latent_size": 192}),
]
# Wide enough that every stage has work for two threads.
WIDE = {
    "qwen3_moe": {
        "hidden_size": 1024, "num_experts": 128, "num_hidden_layers": 2, "num_attention_heads": 8,
    },
    "qwen3_next": {
        "hidden_size": 1024, "num_experts": 128, "num_hidden_layers": 2, "num_attention_heads": 8,
        "full_attention_interval": 2, "shared_expert_intermediate_size": 256,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_value_heads": 8,
    },
    "nemotron_h": {
        "hidden_size": 1024, "n_routed_experts": 128, "hybrid_override_pattern": "ME*-",
        "num_hidden_layers": 4, "num_attention_heads": 8, "mamba_num_heads": 32,
        "mamba_head_dim": 64, "ssm_state_size": 64, "moe_latent_size": 256,
        "moe_shared_expert_intermediate_size": 256, "intermediate_size": 256,
    },
}  # fmt: skip
# 100 resident + 20 scratch + 30 session; 16 experts of 10 bytes in 4 layers, top 2.
TOY = plan.Sizes(
    resident_bytes=100, scratch_bytes=20, session_bytes=30, state_bytes=10,
    extent=5, caches=((10, 0, 0),),
    classes=((10, 16, 4),), slot_bytes=10,
    expert_bytes=9, dense_token_bytes=50, hand_overs=40,
    n_experts=16, n_layers=4, experts_per_layer=4, top_k=2,
    context=10,
)  # fmt: skip
KERNELS = rates.KernelRate(500.0, 0.001)
LAYER = rates.LayerRate({0: 0.04, 2: 0.14})
DISK = rates.DiskRate({1: 100.0, 2: 200.0}, "direct")
MACHINE = rates.Machine(DISK, 1000.0, KERNELS, 2, LAYER)


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def folder(request, tmp_path_factory):
    family, form, overrides = request.param
    return build(tmp_path_factory.mktemp("plan") / "m", family=family, form=form, **overrides)


def measured(folder):
    checkpoint = open_checkpoint(folder)
    return plan.measure(checkpoint, build_spec(checkpoint), CONTEXT, THREADS)


@pytest.mark.parametrize("memory", [1, 10**6, 4 * 10**6])
def test_too_little_memory_is_refused_with_what_the_whole_model_takes(folder, memory):
    """Whatever booking it is that finds no room: the number that is named does."""
    minimum = plan.minimum_bytes(measured(folder))
    with pytest.raises(moeflux.MemoryBudgetError, match=f"at least {minimum} "):
        load(folder, memory)


def load(folder, memory):
    return moeflux.load(folder, memory=memory, context=CONTEXT, threads=THREADS)


def test_load_accepts_the_minimum_and_not_a_byte_less(folder):
    minimum = plan.minimum_bytes(measured(folder))
    assert load(folder, minimum).session().step([1, 2, 3]).shape
    with pytest.raises(moeflux.MemoryBudgetError, match=str(minimum)):
        load(folder, minimum - 1)
    with pytest.raises(moeflux.MemoryBudgetError, match=str(minimum)):
        plan.fit(measured(folder), minimum - 1)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_where_reading_the_weights_takes_most_the_minimum_is_its_peak(tmp_path, monkeypatch, top_k):
    # With one reader of experts, the weights' readers take more than all that follows them.
    for module in ("model", "planning.plan"):
        monkeypatch.setattr(f"moeflux.{module}.READ_THREADS", 1)
    folder = build(tmp_path / "m", family="qwen3_moe", form="mlx-q4", num_experts_per_tok=top_k)
    minimum = plan.minimum_bytes(measured(folder))
    model = load(folder, minimum)
    assert model.stats["peak_bytes"] == minimum
    model.session().step([1, 2, 3])
    with pytest.raises(moeflux.MemoryBudgetError, match=f"at least {minimum}|={minimum} would do"):
        load(folder, minimum - 1)


def test_the_minimum_without_guesses_is_what_load_takes_without_guesses(folder):
    checkpoint = open_checkpoint(folder)
    sizes = plan.measure(checkpoint, build_spec(checkpoint), CONTEXT, THREADS, read_ahead=False)
    minimum = plan.minimum_bytes(sizes)
    assert minimum < plan.minimum_bytes(measured(folder))
    options = {"context": CONTEXT, "threads": THREADS, "read_ahead": False}
    model = moeflux.load(folder, memory=minimum, **options)
    assert model.session().step([1, 2, 3]).shape
    with pytest.raises(moeflux.MemoryBudgetError, match=str(minimum)):
        moeflux.load(folder, memory=minimum - 1, **options)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_sizes_are_those_of_the_kernels_that_are_asked_for(folder, monkeypatch, precision):
    """Kernels differ in scratch: where MOEFLUX_SIMD chooses others, the plan is for these."""
    monkeypatch.setenv("MOEFLUX_SIMD", "portable")
    checkpoint = open_checkpoint(folder)
    sizes = plan.measure(checkpoint, build_spec(checkpoint), CONTEXT, THREADS, precision)
    minimum = plan.minimum_bytes(sizes)
    options = {"context": CONTEXT, "threads": THREADS, "precision": precision}
    with pytest.raises(moeflux.MemoryBudgetError, match=str(minimum)):
        moeflux.load(folder, memory=minimum - 1, **options)
    model = moeflux.load(folder, memory=minimum, **options)
    assert model.stats["simd"] == "portable"


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_model_at_work_holds_exactly_what_the_plan_says(folder, extra):
    """At a slot's boundary, a byte before and a byte past it."""
    sizes = measured(folder)
    memory = plan.minimum_bytes(sizes) + 5 * sizes.slot_bytes + extra
    fit = plan.fit(sizes, memory)
    assert fit.slots == max(sizes.top_k, 3) + (4 if extra < 0 else 5)
    model = load(folder, memory)
    session = model.session()
    for start in range(0, 100, 20):
        session.step([(7 * i) % 250 for i in range(start, start + 20)])
    stats = model.stats
    assert stats["evictions"] > 0
    assert stats["slots"] == fit.slots
    assert stats["slot_bytes"] == sizes.slot_bytes
    assert stats["live_bytes"] == sizes.fixed_bytes + fit.slots * sizes.slot_bytes <= memory


def test_bytes_of_a_token_are_those_of_its_experts(folder):
    sizes = measured(folder)
    model = load(folder, plan.minimum_bytes(sizes))
    model.session().step([1])
    stats = model.stats
    assert stats["misses"] == sizes.cycle_slots
    assert stats["bytes_read"] == sizes.expert_token_bytes


def test_a_packed_folder_has_the_plan_of_its_source(folder, tmp_path):
    assert measured(pack(folder, tmp_path / "packed")) == measured(folder)


def test_measuring_a_model_larger_than_memory_takes_no_memory():
    """The real 397B shape: 223 GB of tensors that exist as a table only."""
    script = (
        "import resource; from pathlib import Path; import sys;"
        "sys.path.insert(0, sys.argv[1]);"
        "from support.paper import on_paper; from moeflux.planning import plan; import numpy;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "sizes = plan.measure(*on_paper('qwen3.5-397b-a17b'), 8192, 2);"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before;"
        "print(sizes.resident_bytes, sizes.expert_bytes, sizes.expert_token_bytes, grown)"
    )
    tests = os.path.dirname(os.path.dirname(__file__))
    done = subprocess.run([sys.executable, "-c", script, tests], capture_output=True, text=True,
                          check=False, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    resident, expert, token, grown = map(int, done.stdout.split())
    assert 5.4e9 < resident < 5.8e9  # 5.58 GB by the design's size table
    assert expert == 7077888 and round(token / 1e9, 2) == 4.25
    assert grown < 200_000  # KiB


@pytest.mark.parametrize(
    ("memory", "slots", "holds_cycle"),
    [(180, 3, False), (189, 3, False), (190, 4, False), (229, 7, False), (230, 8, True),
     (309, 15, True), (310, 16, True), (311, 16, True), (1 << 40, 16, True)],
)  # fmt: skip
def test_slots_at_each_boundary_and_a_byte_past_it(memory, slots, holds_cycle):
    fit = plan.fit(TOY, memory)
    assert (fit.slots, fit.holds_cycle, fit.share) == (slots, holds_cycle, slots / 16)


def test_one_byte_below_the_minimum_is_refused():
    assert plan.minimum_bytes(TOY) == 180
    with pytest.raises(moeflux.MemoryBudgetError, match="at least 180"):
        plan.fit(TOY, 179)


def test_hits_begin_where_a_tokens_experts_fit():
    assert plan.expected_hit_rate(TOY, 7, 0.0) == 0
    assert plan.expected_hit_rate(TOY, 8, 0.0) == pytest.approx(0.5)
    assert plan.expected_hit_rate(TOY, 16, 0.0) == 1
    assert plan.expected_hit_rate(TOY, 12, 1.0) > plan.expected_hit_rate(TOY, 12, 0.0)


def test_a_tokens_time_is_what_the_formula_gives_by_hand():
    # KV: 10 / 5 = 2 bytes a token; at position 5: 10, and 10 of state, at 1000 a second.
    # 40 hand-overs of 1 ms.
    dense = 50 / 500 + 20 / 1000 + 40 * 0.001
    resident = plan.speed(TOY, MACHINE, 1.0, position=5)
    assert resident.seconds == resident.compute_seconds == pytest.approx(dense + 4 * 0.04)
    assert resident.bytes_per_token == 0 and resident.read_seconds == 0
    cold = plan.speed(TOY, MACHINE, 0.0, position=5)
    assert cold.seconds == pytest.approx(dense + 4 * 0.14)
    # One slot takes 0.1 s to read, two at once take 20 / 200 = 0.1 s.
    assert cold.bytes_per_token == 4 * 2 * 9 and cold.read_seconds == pytest.approx(4 * 0.1)
    half = plan.speed(TOY, MACHINE, 0.5, position=5)
    mean = 0.25 * 0.04 + 0.5 * 0.09 + 0.25 * 0.14  # of 0, 1 and 2 experts missing
    assert half.seconds == pytest.approx(dense + 4 * mean)
    assert half.tokens_per_second == pytest.approx(1 / half.seconds)
    far = plan.speed(TOY, MACHINE, 1.0, position=10**9)  # no further than the context
    assert far.seconds == pytest.approx(resident.seconds + 10 / 1000)
    without_experts = replace(TOY, n_layers=0, top_k=0, n_experts=0)
    speed = plan.speed(without_experts, replace(MACHINE, layer=None), 1.0, position=5)
    assert speed.seconds == pytest.approx(dense)


def test_hand_overs_are_counted_from_the_layers(tmp_path):
    folder = build(tmp_path / "a", family="qwen3_moe", form="mlx-q4", mlp_only_layers=[1])
    n = open_checkpoint(folder).config["num_hidden_layers"]
    assert measured(folder).hand_overs == 1 + n * 3 + (n - 1) * 1 + 2
    folder = build(tmp_path / "b", family="qwen3_next", form="mlx-q4")
    mixers = [layer.mixer.kind for layer in build_spec(open_checkpoint(folder)).layers]
    count = Counter(mixers)
    assert count["attention"] and count["delta_net"]
    expected = 1 + 3 * count["attention"] + 4 * count["delta_net"] + len(mixers) * (1 + 2)
    assert measured(folder).hand_overs == expected


@pytest.mark.parametrize(
    "family", ["qwen3_moe", pytest.param("qwen3_next", marks=pytest.mark.full)]
)
def test_a_token_is_handed_to_threads_as_often_as_the_plan_counts(tmp_path, family):
    folder = build(tmp_path / "m", family=family, form="mlx-q4", **WIDE[family])
    spec = build_spec(open_checkpoint(folder))
    model = moeflux.load(folder, memory="256MB", context=CONTEXT, threads=THREADS, read_ahead=False)
    session = model.session()
    cost = {"misses": 1}
    while cost["misses"]:  # experts that wait for a read are handed over by themselves
        before = model.stats
        session.step([1])
        cost = {name: model.stats[name] - before[name] for name in ("misses", "dispatches")}
    experts = probe.STAGES_OF_EXPERTS * len(spec.moes)
    assert cost["dispatches"] == measured(folder).hand_overs + experts


def test_no_prediction_passes_the_bound():
    for rate in (0.0, 0.3, 0.9, 1.0):
        # Kernels are at most as fast as memory.
        for machine in (MACHINE, replace(MACHINE, kernels=rates.KernelRate(1000.0, 0.0))):
            assert plan.speed(TOY, machine, rate).tokens_per_second <= plan.bound(
                TOY, machine, rate
            ) * (1 + 1e-9)


def test_rows_have_one_speed_for_a_given_hit_rate_and_two_without():
    budgets = plan.usual_budgets(TOY)
    assert budgets[0] == 180 and budgets[-1] == 310 and 230 in budgets
    assert [len(row.speeds) for row in plan.rows(TOY, MACHINE, budgets)] == [2] * len(budgets)
    (row,) = plan.rows(TOY, MACHINE, [200], 0.25)
    assert [speed.hit_rate for speed in row.speeds] == [0.25]
    speeds = [row.speeds[1].tokens_per_second for row in plan.rows(TOY, MACHINE, budgets)]
    assert speeds == sorted(speeds)


def command(*args, name="plan", **environment):
    return run_moeflux(name, *args, env=os.environ | environment)


@pytest.fixture
def planned(monkeypatch, capsys):
    """The command in this process, with the rates of a machine that need no probe."""
    monkeypatch.setattr(probe, "machine", lambda *args: MACHINE)

    def planned(*args):
        monkeypatch.setattr(sys, "argv", ["moeflux", "plan", "--json", *map(str, args)])
        with suppress(SystemExit):
            cli.main()
        told = capsys.readouterr()
        assert not told.err
        return json.loads(told.out)

    return planned


def test_the_command_shows_draws_and_prints_json(tmp_path, planned):
    folder = synthesize(tmp_path / "m", Recipe("small"))
    chart = tmp_path / "chart.svg"
    checkpoint = open_checkpoint(folder)
    threads = default_threads(checkpoint.nbytes)
    sizes = plan.measure(checkpoint, build_spec(checkpoint), 512, threads)
    least = plan.minimum_bytes(sizes)
    done = command(str(folder), "--context", "512", "--plot", str(chart))
    first = "".join(done.stdout.split())  # a path may be cut by the end of a line
    words = {level.word: level.status for level in verdict.LEVELS}
    assert words[first.partition(":")[0]] == done.returncode, first
    assert f"smallestbudget{as_size(least)}:moefluxchat{folder}--memory" in first
    assert "minimum memory" in done.stdout and "skewed" in done.stdout
    root = ElementTree.parse(chart).getroot()
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 4 and all(line.get("points") for line in lines)
    answer = planned(folder, "--context", 512, "--memory", "100MB", "--memory", "1GB",
                     "--hit-rate", 0.5)  # fmt: skip
    assert answer["minimum_bytes"] == least
    assert [row["memory_bytes"] for row in answer["rows"]] == [100_000_000, 1_000_000_000]
    for row in answer["rows"]:
        (speed,) = row["speeds"]
        assert speed["hit_rate"] == 0.5 and speed["tokens_per_second"] > 0
        assert speed["bytes_per_token"] == answer["expert_bytes_per_token"] / 2


def test_the_command_plans_what_a_load_at_that_precision_needs(tmp_path, planned):
    folder = build(tmp_path / "m", family="qwen3_moe", form="mlx-q4")
    options = {"context": 1000, "threads": THREADS}
    minima = []
    for precision in PRECISIONS:
        args = ["--context", 1000, "--threads", THREADS, "--precision", precision]
        answer = planned(folder, *args)
        minima.append(answer["minimum_bytes"])
        assert answer["precision"] == precision
        model = moeflux.load(folder, memory=minima[-1], precision=precision, **options)
        assert model.session().step([1, 2, 3]).shape
        with pytest.raises(moeflux.MemoryBudgetError, match=str(minima[-1])):
            moeflux.load(folder, memory=minima[-1] - 1, precision=precision, **options)
    assert len(set(minima)) > 1  # or the option changes nothing


@pytest.mark.parametrize(
    ("args", "word"),
    [(["--hit-rate", "1.5"], "hit_rate"), (["--precision", "int4"], "precision"),
     (["--device", "host", "--precision", "int8"], "precision"),
     (["demo", "--memory", "1MB"], "at least"), (["--context", "0"], "context"),
     (["--plot", "/nowhere/at/all.svg"], "/nowhere"), (["--rows", "64"], "a model for --rows"),
     (["--disk-gb-s", "3"], "found one of them"),
     (["demo", "--disk-gb-s", "-1", "--mem-gb-s", "9"], "disk-gb-s"),
     (["--ram", "much"], "a size")],
)  # fmt: skip
def test_what_makes_no_plan_is_one_sentence(args, word):
    done = command(*args)
    assert done.returncode == 1 and word in done.stderr and "Traceback" not in done.stderr


def test_a_chart_is_left_as_it_is_until_it_is_drawn(tmp_path):
    chart = tmp_path / "chart.svg"
    line_chart.require_writable(chart)
    assert not chart.exists()
    chart.write_text("drawn before")
    line_chart.require_writable(chart)
    assert chart.read_text() == "drawn before"


def test_a_hub_id_is_planned_and_described_from_headers_alone(tmp_path, planned):
    folder = build(tmp_path / "main", family="qwen3_next", form="mlx-q4", num_experts=64, shards=3)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with FakeHub("org/big", {"main": folder}) as server:
        commit = server.commits["main"]
        about = command("org/big", name="info", HF_ENDPOINT=server.url, **environment)
        rates = ("--disk-gb-s", "1", "--mem-gb-s", "10")
        done = command("org/big", "--json", "--context", "256", *rates, HF_ENDPOINT=server.url,
                       **environment)  # fmt: skip
        assert done.returncode == 0, done.stderr
        asked = [tuple(map(int, text[6:].split("-"))) for text in server.ranges]
        wrong = command("org/none", "--json", HF_ENDPOINT=server.url, **environment)
    assert wrong.returncode == 1 and wrong.stderr.startswith("moeflux: [remote]")
    assert about.returncode == 0, about.stderr
    assert "not here yet" in about.stdout and commit in about.stdout
    assert len(asked) >= 3 and sum(end + 1 - begin for begin, end in asked) < weights / 2
    assert not any(server.fetched[path.name] > len(asked) for path in folder.iterdir())
    cached = [path for path in (tmp_path / "hf").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in cached) < 1_000_000
    local = planned(folder, "--context", 256)
    remote = json.loads(done.stdout)
    for key in ("sizes", "minimum_bytes", "expert_bytes_per_token"):
        assert remote[key] == local[key]


@pytest.mark.parametrize("top", [0.003, 0.99, 1, 1.01, 7, 42, 12345])
def test_ticks_are_few_round_and_reach_past_the_top(top):
    ticks = line_chart._ticks(top)
    assert 3 <= len(ticks) <= 7 and ticks[0] == 0 and ticks[-1] >= top * (1 - 1e-9)
    assert all(float(f"{tick:.2g}") == pytest.approx(tick) for tick in ticks)


def test_a_chart_escapes_what_it_is_told():
    text = line_chart.svg("<script>", "&", '"', [line_chart.Line("<b>", [(0, 0), (1, 1)])])
    assert "<script>" not in text and ElementTree.fromstring(text) is not None


@pytest.mark.parametrize("kv", CACHES)
def test_the_longest_context_is_the_longest_that_loads(tmp_path, kv):
    folder = build(tmp_path / "m", family="qwen3_moe", form="mlx-q4")
    checkpoint = open_checkpoint(folder)
    sizes = plan.measure(checkpoint, build_spec(checkpoint), 512, THREADS, kv=kv)
    budget = plan.minimum_bytes(sizes) + 20 * sizes.extents_bytes(1)
    longest = plan.longest_context(sizes, budget)
    assert 512 + 19 * 256 <= longest <= 512 + 21 * 256
    session = moeflux.load(folder, memory=budget, context=longest - 256, threads=THREADS, kv=kv)
    assert session.session().bytes(longest - 256) < budget
    with pytest.raises(moeflux.MemoryBudgetError):
        moeflux.load(folder, memory=budget, context=longest + 512, threads=THREADS, kv=kv)


def test_a_plan_says_what_context_each_cache_gets(tmp_path, planned):
    folder = build(tmp_path / "m", family="qwen3_moe", form="mlx-q4")
    contexts = planned(folder, "--context", 512, "--memory", "64MiB")["contexts"]
    assert tuple(contexts) == CACHES
    assert (
        contexts["float32"] * 1.9 < contexts["bfloat16"]
        and contexts["int8"] > 1.5 * contexts["bfloat16"]
    )
