"""demo-chat writes what transformers writes from the same (dequantised) weights."""

import json
from pathlib import Path

import pytest

import moeflux
from moeflux import IoError, hub
from support import greedy
from train_chat.dialogue import TEMPLATE, WEATHER, Talk

ROOT = Path(__file__).parents[2]
PACKAGE = Path(moeflux.__file__).parent
CASES = json.loads((ROOT / "tests/golden/demo_chat.json").read_text())
MAX_BYTES = 24_000_000  # of both models
USER = {"role": "user", "content": "What is the weather in Paris?"}


@pytest.fixture(scope="module")
def model():
    return moeflux.load("demo-chat", memory="12MB", context=256, precision="float32")


@pytest.mark.parametrize("case", CASES, ids=["talk", "calls", "result"])
def test_greedy_answer_equals_transformers_while_streaming(case, model):
    written = greedy.write(model, case, len(case["answer_ids"]))
    assert written == case["answer_ids"]
    assert written[-1] in model.tokenizer.eos_ids
    assert model.tokenizer.decode(written[:-1], skip_special_tokens=False) == case["answer"]
    assert model.stats["misses"] > 0


def test_the_template_writes_what_the_model_was_taught(model):
    call = {"name": "get_weather", "arguments": {"city": "Paris"}}
    result = '{"temperature": 18, "condition": "cloudy"}'
    messages = [
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": call}] * 2,
        },
        {"role": "tool", "content": result},
        {"role": "tool", "content": "18"},
        {"role": "assistant", "content": "Fine."},
    ]
    taught = Talk([WEATHER, WEATHER], "Be brief.")
    taught.user(USER["content"])
    taught.call([("get_weather", {"city": "Paris"})] * 2)
    taught.result(result)
    taught.result("18")
    taught.answer("Fine.")
    tools = [{"type": "function", "function": WEATHER}] * 2
    messages.insert(0, {"role": "system", "content": "Be brief."})
    found = model.tokenizer.apply_template(messages, tools=tools, add_generation_prompt=False)
    assert found == "".join(text for text, _ in taught.segments())
    settings = json.loads((PACKAGE / "demo_chat/tokenizer_config.json").read_text())
    assert settings["chat_template"] == TEMPLATE


def test_prompt_ids_come_from_the_shipped_tokenizer_and_template(model):
    told = CASES[2]
    call = {"name": "get_weather", "arguments": {"city": "Paris"}}
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": '{"temperature": 18, "condition": "cloudy"}'},
    ]
    tools = [{"type": "function", "function": WEATHER}]
    assert list(model.tokenizer.encode_chat(messages, tools=tools)) == told["prompt_ids"]
    for case in CASES:
        assert list(model.tokenizer.encode(case["prompt"])) == case["prompt_ids"]


def test_shipped_models_stay_small():
    sizes = [path.stat().st_size for name in hub.SHIPPED.values()
             for path in (PACKAGE / name).iterdir()]  # fmt: skip
    assert sum(sizes) <= MAX_BYTES


def test_shipped_models_have_names_and_folders_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("demo-chat").name == "demo_chat"
    assert hub.resolve("demo") == hub.resolve(None)
    with pytest.raises(IoError, match=r"expected a checkpoint folder, .* \(demo-chit\)"):
        hub.resolve("demo-chit")
    with pytest.raises(IoError, match=r"\(\./demo-chat\)"):
        hub.resolve("./demo-chat")
    (tmp_path / "demo-chat").mkdir()
    assert hub.resolve("demo-chat") == Path("demo-chat")


def test_a_build_without_the_model_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "SHIPPED", {"demo-chat": "left_out"})
    with pytest.raises(IoError, match="this build ships no demo-chat model"):
        hub.resolve("demo-chat")
