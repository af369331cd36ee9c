"""The first inputs of each target: what is well-formed, for a corpus to grow from.

PYTHONPATH=tests python -m fuzz.seeds
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import moeflux
from fuzz import corpus
from fuzz.targets import FORMS, MODEL_TYPES, URLS, checkpoint
from moeflux import saved
from moeflux.serve.constrain import KINDS
from oracle import build
from serve.asking import USER, WEATHER
from support import gguf_twin, markups


def heads() -> Iterator[tuple[str, bytes]]:
    """Of checkpoints: headers, configs, GGUF heads."""
    for kind in sorted(filter(None, MODEL_TYPES)):
        found = checkpoint(kind)
        yield "config", json.dumps(found.config).encode()
        first = found.files[0].read_bytes()
        yield "safetensors", first[8 : 8 + int.from_bytes(first[:8], "little")]
    with tempfile.TemporaryDirectory() as folder:
        for family in gguf_twin.ARCHS:
            (into := Path(folder) / family).mkdir()
            path, _ = gguf_twin.make(into, family, gguf_twin.mixed)
            yield "gguf", path.read_bytes()[:16384]
    said = {"chat_template": "{{ messages }}", "added_tokens_decoder": {"1": {"content": "a"}}}
    yield "tokenizer", json.dumps(said | {"eos_token": "<|im_end|>"}).encode()


def kept_files() -> Iterator[tuple[str, bytes]]:
    """A snapshot and a trace of a tiny model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        model = moeflux.load(build(path / "m", "qwen3_moe", "mlx-q4"), memory="64MiB", context=32)
        session = model.session()
        session.step([1, 2, 3])
        session.save().write(path / "kept")
        data = (path / "kept").read_bytes()
        yield "snapshot", data[:8192]
        header = saved.Header(model={}, position=0, n_tokens=0, note_bytes=0, state_bytes=0)
        yield "snapshot", json.dumps(vars(header)).encode()
        writer = moeflux.trace.TraceWriter(model.config["num_experts"], {"text": "of a fuzzer"})
        writer.begin()
        writer.add([4], session.step([4], capture={"experts", "router"}))
        writer.trace().save(path / "t.npz")
        yield "trace", (path / "t.npz").read_bytes()


def answers() -> Iterator[tuple[str, bytes]]:
    """What models say, each in its markup and in another's."""
    city = ("city", "Paris")
    texts = [
        markups.harmony("get_weather", "{}"), markups.kimi(("get_weather", "{}")),
        markups.deepseek(("get_weather", "{}")), markups.minimax(("get_weather", city)),
        markups.glm("get_weather", city),
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n"
        "</tool_call>",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        markups.gemma("get_weather", 'city:<|"|>Paris<|"|>'),
        markups.lfm("get_weather(city='Paris', days=2)", "get_weather()"),
        markups.mistral("get_weather", "{}"),
        markups.mixtral(("get_weather", '{"city": "Paris"}'), ("get_weather", "{}")),
    ]  # fmt: skip
    for index, text in enumerate(texts):
        for form in (index, (index + 1) % len(FORMS)):
            yield "calls", bytes([form, 2, 6]) + f"<think>Hm.</think>\nSo: {text}".encode()


def asked() -> Iterator[tuple[str, bytes]]:
    """Bodies by endpoint, and a batch of them."""
    tool = {"type": "function", "function": WEATHER}
    bodies = {
        "/v1/chat/completions": {"messages": [USER], "tools": [tool], "logprobs": True},
        "/v1/completions": {"prompt": "hi", "max_tokens": 2, "echo": True, "logprobs": 1},
        "/v1/messages": {"max_tokens": 4, "messages": [USER], "system": [{"type": "text",
                                                                       "text": "be"}]},
        "/v1/responses": {"input": [USER | {"type": "message"}], "tools": [{"type": "function"}
                                                                          | WEATHER]},
        "/tokenize": {"messages": [USER]}, "/detokenize": {"tokens": [1, 2]},
        "/v1/messages/count_tokens": {"messages": [USER]}, "/apply-template": {"messages": [USER]},
    }  # fmt: skip
    for url, body in bodies.items():
        yield "request", bytes([URLS.index(url)]) + json.dumps({"model": "m"} | body).encode()
        line = {"custom_id": "a", "method": "POST", "url": url, "body": body}
        yield "batch", json.dumps(line).encode() + b"\n"
    schema = {"type": "object", "properties": {"a": {"enum": [1, "b"]}}, "required": ["a"]}
    sources = {
        "json_schema": json.dumps(schema),
        "json": "",
        "regex": "[a-z]+(b|c){2,3}",
        "lark": 'start: "a" WORD\nWORD: /[a-z]+/\n',
        "gbnf": 'root ::= "a" [a-z]+',
    }
    for kind, source in sources.items():
        yield "grammar", bytes([KINDS.index(kind)]) + source.encode()
    for text in ("12GiB", "1.5 kb", "auto", "1e3"):
        yield "size", text.encode()


def main() -> None:
    """Adds the seeds to each target's corpus."""
    found: dict[str, list[bytes]] = {}
    for source in (heads, kept_files, answers, asked):
        for name, data in source():
            found.setdefault(name, corpus.load(name)).append(data)
    for name, inputs in found.items():
        corpus.store(name, inputs, 1 << 20)


if __name__ == "__main__":
    main()
