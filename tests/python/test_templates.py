"""Chat templates against what transformers renders of them (tools/goldens/templates.py)."""

import json

import pytest

import moeflux
from moeflux.tokenizer import Tokenizer
from oracle import goldens, tokenizer_file

CASES = json.loads((goldens.FOLDER / "templates.json").read_text(encoding="utf-8"))["cases"]
CHAT = [{"role": "user", "content": "hi"}]


def tokenizer_with(folder, template, settings=None):
    """The oracle's tokenizer with a template and entries of tokenizer_config.json."""
    tokenizer_file.write_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"chat_template": template} | (settings or {})
    path.write_text(json.dumps(config))
    return Tokenizer(folder, {})


@pytest.mark.parametrize("name", CASES)
def test_a_template_renders_as_transformers_renders_it(tmp_path, name):
    case = CASES[name]
    tokenizer = tokenizer_with(tmp_path, case["template"], case["settings"])
    assert tokenizer.apply_template(case["messages"]) == case["text"]


def test_named_tokens_of_older_checkpoints_have_a_file_of_their_own(tmp_path):
    (tmp_path / "special_tokens_map.json").write_text('{"sep_token": {"content": "<s>"}}')
    template = "{{ sep_token }}{{ eos_token }}"
    assert tokenizer_with(tmp_path, template).apply_template(CHAT) == "<s><|im_end|>"
    newer = tokenizer_with(tmp_path, template, {"added_tokens_decoder": {}})
    assert newer.apply_template(CHAT) == "<|im_end|>"


def test_a_template_may_hold_no_more_memory_than_its_process_has(tmp_path):
    """Within the time limit, and with little output: memory alone is what it takes too much of."""
    tokenizer = tokenizer_with(tmp_path, "{% set x = 'x' * 2**29 %}{{ x | length }}")
    with pytest.raises(moeflux.TemplateError, match="MemoryError"):
        tokenizer.apply_template(CHAT)


def test_a_template_may_take_no_more_processor_time_than_its_process_has(tmp_path, monkeypatch):
    monkeypatch.setattr("moeflux.tokenizer.MAX_TEMPLATE_SECONDS", 1)
    loops = "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
    with pytest.raises(moeflux.TemplateError, match="1 seconds of processor time"):
        tokenizer_with(tmp_path, loops).apply_template(CHAT)


@pytest.mark.parametrize("token", ["<|im_end|>", {"content": "<|im_end|>"}])
def test_the_tokenizers_own_end_of_text_ends_a_text(tmp_path, token):
    assert tokenizer_with(tmp_path, "", {"eos_token": token}).eos_ids == {256}
    assert tokenizer_with(tmp_path, "", {"eos_token": "\ud800"}).eos_ids == frozenset()
