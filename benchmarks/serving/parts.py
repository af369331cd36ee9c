"""What is called once a token: the sampler and the mask of a grammar, at 151,936 tokens."""

from __future__ import annotations

import json
import statistics
import time

import numpy as np

from moeflux.sampling import Sampler, SamplingParams
from moeflux.serve.constrain import Compiler

from . import Options, Row, at_most

VOCAB = 151_936
ENDS = (VOCAB - 1,)
TEXT = {"type": "string"}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": TEXT, "kind": {"enum": ["file", "folder", "link"]},
        "size": {"type": "integer"}, "tags": {"type": "array", "items": TEXT},
        "owner": {"type": "object", "properties": {"id": {"type": "number"}, "mail": TEXT},
                  "required": ["id"]},
    },
    "required": ["name", "kind", "size", "tags", "owner"],
}  # fmt: skip


def sampler(options: Options) -> list[Row]:
    """A row of logits on one thread: seconds of its processor."""
    random = np.random.Generator(np.random.PCG64(1))
    rows = random.normal(0, 3.0, (8, VOCAB)).astype(np.float32)
    made = Sampler(SamplingParams(0.8, top_k=50, top_p=0.9, seed=1))
    times = []
    for i in range(40 * options.rounds + 5):
        begin = time.thread_time()
        made.choose(rows[i % 8])
        times.append(time.thread_time() - begin)
    what = "sampler, top-k and top-p of 151,936, a row"
    return [at_most(what, 1e3 * statistics.median(times[5:]), 0.3, "ms")]


def tokenizer() -> str:
    """A tokenizer.json of 151,936 tokens: bytes, then words by chance, with a space or without."""
    random = np.random.Generator(np.random.PCG64(2))
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in visible]
    vocab = {chr(b) if b in visible else chr(256 + rest.index(b)): b for b in range(256)}
    letters = np.array(list('etaoinshrdlucmfwypvbgkqjxz_0123456789.,:;"{}[]()'))
    weight = 1 / np.arange(2, len(letters) + 2)
    while len(vocab) < VOCAB - 1:
        for size in random.integers(2, 9, 4096):
            word = "".join(random.choice(letters, size, p=weight / weight.sum()))
            word = ("Ġ" if random.random() < 0.4 else "") + word
            if len(vocab) < VOCAB - 1:
                vocab.setdefault(word, len(vocab))
    end = {"id": ENDS[0], "content": "<|end|>", "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False, "special": True}  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}  # fmt: skip
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end],
        "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })  # fmt: skip


def grammar(options: Options) -> list[Row]:
    """Masks along texts of a schema that are chosen by chance among what is allowed."""
    random = np.random.Generator(np.random.PCG64(3))
    compiler = Compiler(tokenizer(), ENDS, VOCAB)
    compiler.compile("regex", "x")  # reads the tokenizer
    begin = time.perf_counter()
    compiled = compiler.compile("json_schema", json.dumps(SCHEMA))
    compile_s = time.perf_counter() - begin
    times = []
    for _ in range(8 * options.rounds):
        place = compiled.start()
        for _ in range(64):
            begin_mask = time.thread_time()
            bits = place.mask()
            times.append(time.thread_time() - begin_mask)
            allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
            place.consume(int(random.choice(allowed)))
            if place.stopped:
                break
    late = sorted(times)[int(0.99 * len(times))]
    return [
        at_most("mask of a grammar, p50", 1e6 * statistics.median(times), 50, "us"),
        at_most("mask of a grammar, p99", 1e3 * late, 10, "ms"),
        at_most("compiling its schema", compile_s, 2, "s"),
    ]
