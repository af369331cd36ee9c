"""What reads foreign bytes, each as a function of bytes: it ends, or raises one of our errors.

Any other exception is a finding. Nothing here needs a model's weights.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import itertools
import json
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from moeflux import memory, packed, saved
from moeflux.checkpoint import Checkpoint, open_checkpoint
from moeflux.errors import MoefluxError
from moeflux.families import build_spec
from moeflux.gguf import contents, header
from moeflux.safetensors_header import parse_header, parse_object
from moeflux.serve.batch import rows
from moeflux.serve.constrain import KINDS, Compiler
from moeflux.serve.http.errors import ApiError
from moeflux.serve.parse.markup import find_markup
from moeflux.serve.parse.parser import Parser
from moeflux.tokenizer import Tokenizer
from moeflux.trace import read_trace
from oracle import goldens
from oracle.families import FAMILIES
from serve.asking import WEATHER, app_of, http
from serve.scripted import ScriptedEngine
from support import markups

REFUSED = (MoefluxError, ApiError, rows.LineError)  # how bytes are refused
NOWHERE = Path("fuzzed")
URLS = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/tokenize",
        "/v1/messages/count_tokens", "/detokenize", "/apply-template")  # fmt: skip
MODEL_TYPES = {family.base.get("model_type") for family in FAMILIES.values()}
# A new one goes to the end: the kept inputs name them by their place.
FORMS = (markups.HARMONY, markups.KIMI, markups.DEEPSEEK, markups.MINIMAX, markups.GLM,
         find_markup("<think> <tool_call> <function="), find_markup("<think> <tool_call>"),
         markups.GEMMA, markups.LFM, markups.MISTRAL, markups.MIXTRAL)  # fmt: skip
POSTS = {"content-type": "application/json"}


def on_disk(read: Callable[[Path], object], data: bytes, name: str) -> None:
    """Reads a file in memory that has these bytes."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as into:
        path = Path(into) / name
        path.write_bytes(data)
        read(path)


def safetensors(data: bytes) -> None:
    """A header's JSON, and the packed form that it may say it has."""
    said = parse_object(data, NOWHERE, "a header")
    ends = re.findall(rb'"data_offsets": ?\[\d{1,12}, ?(\d{1,12})\]', data)
    begin = 4096
    table, said = parse_header(said, begin, begin + max(map(int, ends), default=0), NOWHERE, 0)
    with contextlib.suppress(MoefluxError):
        packed.checksums(said, 1 << 20, NOWHERE)
    packed.expand(table, said, NOWHERE)


def gguf(data: bytes) -> None:
    """A head of GGUF: keys, tensors, and the config that a family is given."""

    def read(offset: int, count: int) -> bytes:
        return data[offset : offset + count]

    contents.contents([header.parse(read, 1 << 30, NOWHERE)])


@functools.cache
def scratch() -> Path:
    """A folder that goes with the process, or with TMPDIR where libFuzzer ends it."""
    folder = tempfile.TemporaryDirectory(prefix="moeflux-fuzz-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def checkpoint(kind: str) -> Checkpoint:
    """A tiny checkpoint of a family, by its model type; of another name that of qwen3_moe."""
    cases = {FAMILIES[case.family].base.get("model_type"): case
             for case in reversed(goldens.CASES.values())}  # fmt: skip
    case = cases.get(kind, goldens.CASES["qwen3_moe-hf"])
    return open_checkpoint(case.build(scratch() / f"model-{kind}"))


def config(data: bytes) -> None:
    """A config.json beside the tensors of its family."""
    said = parse_object(data, NOWHERE, "a config")
    named = said.get("model_type")
    known = named if isinstance(named, str) and named in MODEL_TYPES else "qwen3_moe"
    build_spec(replace(checkpoint(known), config=said))


def snapshot(data: bytes) -> None:
    """A file of a snapshot: as it is, and as the header of one whose checksum is right."""

    def read(path: Path) -> None:
        with saved.opened(path) as reader:
            reader.tokens()
            reader.note()
            for _ in reader.state():
                pass

    prefix = struct.pack("<16sII", saved.MAGIC, saved.VERSION, len(data))
    whole = prefix + struct.pack("<I", zlib.crc32(data, zlib.crc32(prefix))) + data
    with contextlib.suppress(MoefluxError):
        on_disk(read, data, "kept")
    on_disk(read, whole, "kept")


def trace(data: bytes) -> None:
    """A trace of routing."""
    on_disk(read_trace, data, "trace.npz")


def tokenizer(data: bytes) -> None:
    """A tokenizer_config.json beside a good tokenizer, and a text through its template."""
    folder = byte_tokenizer()
    (folder / "tokenizer_config.json").write_bytes(data)
    find_markup(Tokenizer(folder, {}).chat_template or "")


@functools.cache
def byte_tokenizer() -> Path:
    """A folder with a byte-level tokenizer."""
    from oracle.tokenizer_file import write_tokenizer

    (folder := scratch() / "tokenizer").mkdir()
    write_tokenizer(folder, {"<|im_start|>": True, "<|im_end|>": True})
    return folder


def told(data: bytes, step: int) -> list[list[str]]:
    """The events of a model's answer in pieces of so many characters.

    The first byte names the markup, the third the parser's options.
    """
    head, text = data[:3].ljust(3, b"\0"), data[3:].decode(errors="replace")
    ids = itertools.count()
    parser = Parser(0, FORMS[head[0] % len(FORMS)], {"get_weather": WEATHER["parameters"]},
                    opened=bool(head[2] & 1), whole=bool(head[2] & 2), parallel=bool(head[2] & 4),
                    new_id=lambda: f"c{next(ids)}")  # fmt: skip
    events = [e for at in range(0, len(text), step) for e in parser.push(text[at : at + step])]
    return joined([*events, *parser.finish()])


def calls(data: bytes) -> None:
    """A model's answer: the same events whatever the pieces, which UTF-8 can hold."""
    pieces, whole = (told(data, step) for step in (1 + (data[1:2] or b"\0")[0] % 7, len(data) + 1))
    assert pieces == whole, f"expected the same events: {pieces}, {whole}"
    json.dumps(whole, ensure_ascii=False).encode()


def joined(events: list[Any]) -> list[list[str]]:
    """Events with neighbours of one kind as one."""
    out: list[list[str]] = []
    for event in events:
        kind = type(event).__name__
        text = getattr(event, "text", None) or getattr(event, "arguments", None) or ""
        if kind == "CallStart":
            out.append([kind, event.name])
        elif out and out[-1][0] == kind:
            out[-1][1] += text
        else:
            out.append([kind, text])
    return out


@functools.cache
def compiler() -> Compiler:
    """A compiler of grammars for the tokenizer of bytes."""
    return Compiler((byte_tokenizer() / "tokenizer.json").read_text(), [0], vocab_size=320)


def grammar(data: bytes) -> None:
    """A grammar of a client's, of the kind that its first byte names, and its first mask."""
    if data:
        kind, source = KINDS[data[0] % len(KINDS)], data[1:].decode(errors="replace")
        compiler().compile(kind, source).start().mask()


@functools.cache
def served() -> tuple[asyncio.AbstractEventLoop, Any]:
    """An app over an engine by script, and a loop for it."""
    return asyncio.new_event_loop(), app_of(ScriptedEngine())


def request(data: bytes) -> None:
    """A body, to the endpoint that its first byte names: an answer, never a 5xx."""
    loop, app = served()

    async def ask() -> int:
        async with http(app) as client:
            url = URLS[data[0] % len(URLS)]
            return int((await client.post(url, content=data[1:], headers=POSTS)).status_code)

    if data:
        status = loop.run_until_complete(asyncio.wait_for(ask(), 20))
        assert status < 500, status


def batch(data: bytes) -> None:
    """A file of requests."""
    on_disk(rows.scan, data, "b")
    for line in data.split(b"\n"):
        if line:
            rows.parse(line)


def size(data: bytes) -> None:
    """A size that a person types."""
    memory.parse_bytes(data.decode(errors="replace"))


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (safetensors, gguf, config, snapshot, trace, tokenizer, calls, grammar, request,
                     batch, size)
}  # fmt: skip


def attempt(target: Callable[[bytes], None], data: bytes) -> bool:
    """Whether a target took the bytes; False where it refused them by a typed error."""
    try:
        target(data)
    except REFUSED:
        return False
    return True
