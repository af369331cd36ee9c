"""A GGUF file is served as any model: chat by its template, grammars over its vocabulary."""

import asyncio
import json

import moeflux
from moeflux.serve.app import create_app
from moeflux.serve.info import describe
from moeflux.serve.local import LocalEngine
from moeflux.serve.settings import Settings
from serve.asking import USER, http
from support import gguf_twin


def test_a_file_answers_chats_and_follows_a_grammar(tmp_path):
    path, _ = gguf_twin.make(tmp_path, "qwen3_moe", gguf_twin.mixed)
    engine = LocalEngine(moeflux.load(path, memory="64MiB", context=256), "tiny")
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = {"model": "tiny", "messages": [USER], "max_tokens": 200, "response_format": form}

    async def go():
        app = create_app({"tiny": engine}, Settings())
        async with http(app) as client:
            answer = await client.post("/v1/chat/completions", json=body)
        await engine.drain(5)
        return answer

    answer = asyncio.run(go())
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == {"a": "x"}


def test_formats_of_blocks_of_one_size_have_different_fingerprints(tmp_path):
    found = set()
    for kind in ("Q4_0", "IQ4_NL"):
        path, _ = gguf_twin.make(tmp_path / kind, "qwen3_moe", kind)
        with moeflux.load(path, memory="64MiB", context=64) as model:
            found.add(describe(model, "tiny", 64).fingerprint)
    assert len(found) == 2
