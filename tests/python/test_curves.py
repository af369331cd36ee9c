"""Hit rates that were measured: the source's numbers, neighbours, what a plan makes of them."""

import json
import sys
from contextlib import suppress

import pytest

from moeflux import cli
from moeflux.planning import curves, plan, probe, rates
from oracle import build

# 16 experts of 10 bytes in 4 layers, top 2; 150 bytes of all else.
TOY = plan.Sizes(
    resident_bytes=100, scratch_bytes=20, session_bytes=30, state_bytes=10,
    extent=5, caches=((10, 0, 0),), classes=((10, 16, 4),), slot_bytes=10,
    expert_bytes=9, dense_token_bytes=50, hand_overs=40,
    n_experts=16, n_layers=4, experts_per_layer=4, top_k=2, context=10,
)  # fmt: skip
MACHINE = rates.Machine(rates.DiskRate({1: 100.0}, "direct"), 1000.0,
                        rates.KernelRate(500.0, 0.001), 2, rates.LayerRate({0: 0.04}))  # fmt: skip
MEASURED = """family 5 8 12 16 20 25 30 36 45 55 64 75
qwen3_moe .339 .466 .580 .666 .743 .800 .843 .886 .933 .961 .973 .978
qwen3_5_moe .415 .500 .582 .651 .703 .755 .795 .828 .861 .882 .892 .894
qwen4_exp .559 .654 .737 .797 .838 .874 .899 .918 .935 .943 .946 .947
glm_moe_dsa .303 .417 .501 .560 .610 .667 .713 .761 .822 .874 .902 .918"""


def test_curves_are_those_of_their_source_and_grow():
    (_, *shares), *rows = (line.split() for line in MEASURED.splitlines())
    for family, *values in rows:
        curve = curves.CURVES[family]
        found = [curve.hit_rate(int(share) / 100) for share in shares]
        assert found == pytest.approx([float(value) for value in values])
    for curve in curves.CURVES.values():
        found = [curve.hit_rate(i / 200) for i in range(201)]
        assert found == sorted(found) and (found[0], found[-1]) == (0, 1)
    assert curves.CURVES["qwen3_moe"].hit_rate(0.275) == pytest.approx((0.8 + 0.843) / 2)


@pytest.mark.parametrize(
    ("family", "n_experts", "model"),
    [("qwen3_moe", 160, "Qwen3-235B"), ("qwen3_5_moe_text", 256, "Qwen3.5-397B"),
     ("gemma4", 128, "gemma-4-26B-A4B"), ("qwen3_next", 512, "Qwen3.5-397B"),
     ("gpt_oss", 128, "Qwen3-235B"), ("minimax_m2", 256, "GLM-5.2"),
     ("hy_v3", 192, "Qwen3-235B and GLM-5.2"), ("kimi_k2", 384, "GLM-5.2 and Qwen3.5-397B"),
     ("mixtral", 8, None), ("olmoe", 64, None), ("qwen3_moe", 32, None), ("x", 1024, None)],
)  # fmt: skip
def test_a_model_gets_the_curve_of_its_family_or_of_its_neighbours(family, n_experts, model):
    curve = curves.find(family, n_experts)
    assert (curve and curve.model) == model
    if curve:
        said = curves.describe(curve, family)
        assert model in said and "boyle 0.2.1" in said
        assert ("of its family" in said) == (family.removesuffix("_text") in curves.CURVES)


def test_a_curve_between_two_lies_between_them():
    low, high = (curves.CURVES[name].hit_rate(0.25) for name in ("glm_moe_dsa", "qwen3_moe"))
    found = curves.find("hy_v3", 181).hit_rate(0.25)  # 181 is 128 times the square root of 2
    assert found == pytest.approx((low + high) / 2, abs=1e-3)


def test_rows_take_the_curve_where_a_tokens_experts_fit():
    curve = curves.Curve("x", 4, 2, ((0.5, 0.9),))
    budgets = [plan.fit(TOY, memory).memory_bytes for memory in (180, 230, 270, 310)]
    rows = plan.rows(TOY, MACHINE, budgets, curve=curve)
    assert [row.fit.slots for row in rows] == [3, 8, 12, 16]
    assert [row.speeds[1].hit_rate for row in rows] == pytest.approx([0, 0.9, 0.95, 1])
    assert [row.speeds[0].hit_rate for row in rows] == pytest.approx([0, 0.5, 0.75, 1], abs=1e-6)


def test_the_command_says_which_curve_it_took(tmp_path, monkeypatch, capsys):
    tiny = {"family": "qwen3_moe", "form": "mlx-q4", "num_experts": 96, "num_hidden_layers": 1}
    folder = build(tmp_path / "m", **tiny)
    monkeypatch.setattr(probe, "machine", lambda *args: MACHINE)

    def planned(*args):
        monkeypatch.setattr(sys, "argv", ["moeflux", "plan", str(folder), "--context", "64", *args])
        with suppress(SystemExit):
            cli.main()
        return capsys.readouterr().out

    answer = json.loads(planned("--json"))
    assert answer["routing"] == ["uniform", "measured"] and "Qwen3-235B" in answer["curve"]
    answer = json.loads(planned("--json", "--hit-rate", "0.5"))
    assert answer["routing"] == ["as given"] and answer["curve"] is None
    out = " ".join(planned().split())
    assert "measured (boyle 0.2.1) of its family: Qwen3-235B, 128 experts, 8 a token" in out
