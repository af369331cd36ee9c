"""What tools of llama.cpp's server read: names and types as its server gives them."""

import pytest

from moeflux.serve.engine import Health
from serve.asking import ask
from serve.scripted import TEMPLATE, ScriptedEngine


def get(path, engine=None, **more):
    return ask(engine or ScriptedEngine(), path, method="GET", **more)


def test_props_tell_the_context_the_sampling_and_the_template():
    engine = ScriptedEngine(defaults={"temperature": 0.6, "top_k": 20}, context=4096)
    found = get("/props", engine).json()
    settings = found["default_generation_settings"]
    assert settings["n_ctx"] == 4096 and found["model_alias"] == "scripted"
    assert (settings["params"]["temperature"], settings["params"]["top_k"]) == (0.6, 20)
    assert settings["params"]["repeat_penalty"] == 1.0 and settings["params"]["n_predict"] == -1
    assert found["chat_template"] == TEMPLATE and found["total_slots"] == 1
    assert found["modalities"] == {"vision": False, "audio": False}


@pytest.mark.parametrize(
    ("running", "waiting", "busy"),
    [(0, 0, [False]), (2, 0, [True, True, False]), (2, 3, [True, True]), (0, 1, [])],
)
def test_slots_are_the_choices_that_run(running, waiting, busy):
    engine = ScriptedEngine()
    engine.state = Health(running=running, waiting=waiting)
    found = get("/slots", engine).json()
    assert [slot["is_processing"] for slot in found] == busy
    assert all(slot["id"] == i and slot["n_ctx"] == 1 << 16 for i, slot in enumerate(found))
    status = get("/slots?fail_on_no_slot=1", engine).status_code
    assert status == (503 if waiting else 200)
    assert get("/props", engine).json()["total_slots"] == len(busy)


@pytest.mark.parametrize("path", ["/props", "/slots"])
def test_they_want_the_key_and_change_nothing(path):
    assert get(path, api_keys=("secret",)).status_code == 401
    assert get(path, api_keys=("secret",), headers={"x-api-key": "secret"}).status_code == 200
    assert ask(ScriptedEngine(), path, {}).status_code == 405
