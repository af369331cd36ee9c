"""A text longer than the model was made for is told once, under the logger and on a terminal."""

import logging
import sys

import pytest

import moeflux
from moeflux import cli, log
from oracle import build

ROOM = {"memory": "64MiB"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("length") / "m"
    return build(path, "qwen3_moe", "mlx-q4", max_position_embeddings=16)


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_context_of_more_is_told_at_load(folder, caplog):
    caplog.set_level(logging.INFO, "moeflux")
    moeflux.load(folder, context=16, **ROOM)
    assert not warnings_of(caplog)
    moeflux.load(folder, context=17, **ROOM)
    (told,) = warnings_of(caplog)
    assert "17" in told and "16" in told


@pytest.mark.parametrize(
    ("n_prompt", "n_tokens", "n_told"), [(12, 4, 0), (12, 5, 1), (17, 1, 1), (40, 8, 1)]
)
def test_a_text_of_more_is_told_once(folder, caplog, n_prompt, n_tokens, n_told):
    model = moeflux.load(folder, context=64, **ROOM)
    caplog.clear()
    for _ in range(2):
        for _ in moeflux.stream_generate(model, [5] * n_prompt, max_tokens=n_tokens,
                                         logit_bias={256: -1e9}):  # fmt: skip
            pass
    assert len([told for told in warnings_of(caplog) if "made for 16" in told]) == n_told


def test_a_model_whose_config_does_not_say_is_not_told_of(tmp_path, caplog):
    silent = build(tmp_path, "qwen3_moe", "mlx-q4", max_position_embeddings=None)
    model = moeflux.load(silent, context=64, **ROOM)
    moeflux.generate(model, [5] * 40, max_tokens=2)
    assert not [told for told in warnings_of(caplog) if "made for" in told]


@pytest.mark.parametrize(("prompt", "n_told"), [("a" * 40, 1), ("a", 0)])
@pytest.mark.parametrize("verbose", [[], ["-v"]])
def test_the_command_line_tells_it_once(
    folder, capsys, monkeypatch, prompt, n_told, verbose
):  # fmt: skip
    words = ["generate", prompt, "-m", str(folder), "-n", "2", "--memory", "64MiB", *verbose]
    monkeypatch.setattr(sys, "argv", ["moeflux", *words, "--context", "64"])
    levels = {logger: logger.level for logger in (log.logger, log.lengths)}
    for logger in levels:
        monkeypatch.setattr(logger, "handlers", [])
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
    assert capsys.readouterr().err.count("a text of") == n_told
