"""A real model: text, chat and a tool call are transformers', while half of the experts fit.

`python -m real_model FOLDER` (tools/real_model) makes the checkpoints; MOEFLUX_REAL_MODEL=FOLDER
runs these tests on them. tests/golden/real_model.json has what transformers wrote.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import moeflux
from moeflux.checkpoint import open_checkpoint
from moeflux.families import build_spec
from moeflux.planning import plan
from real_model.forms import FORMS, GGUF
from real_model.parts import NAME

FOLDER = os.environ.get("MOEFLUX_REAL_MODEL")
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "real_model.json").read_text())
CASES = [case["name"] for case in GOLDEN["float32"]]
CONTEXT, THREADS = 512, 2
TOLERANCE = 1e-3  # of logits that reach 25

pytestmark = pytest.mark.skipif(not FOLDER, reason="MOEFLUX_REAL_MODEL names no folder")


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def model(form):
    path = Path(FOLDER) / form / (GGUF if form == "gguf" else "")
    checkpoint = open_checkpoint(path)
    sizes = plan.measure(checkpoint, build_spec(checkpoint), CONTEXT, THREADS)
    half = sizes.fixed_bytes + sizes.slots_bytes(sizes.n_experts // 2)
    fits = plan.fit(sizes, half)
    assert 0.45 < fits.share < 0.55
    with moeflux.load(path, memory=half, context=CONTEXT, threads=THREADS) as model:
        yield model


def expected(form, name):
    """The case; a GGUF file's blocks mean the numbers of the float32 form."""
    cases = GOLDEN["float32" if form == "gguf" else form]
    return next(case for case in cases if case["name"] == name)


@pytest.mark.parametrize("name", CASES)
def test_text_is_what_transformers_writes(name, form, model):
    case = expected(form, name)
    tokenizer = model.tokenizer
    if "prompt" in case:
        ids = tokenizer.encode(case["prompt"])
    else:
        ids = tokenizer.encode_chat(case["messages"], tools=case.get("tools"))
    assert list(ids) == case["prompt_ids"]
    session = model.session()
    logits = session.step(ids)
    np.testing.assert_allclose(logits[case["top_ids"]], case["top_logits"], atol=TOLERANCE)
    assert np.argsort(-logits)[:5].tolist() == case["top_ids"]
    written = []
    while len(written) < len(case["ids"]):
        written.append(int(np.argmax(logits)))
        logits = session.step(written[-1:])
    assert written == case["ids"]
    ends = tokenizer.eos_ids
    text = tokenizer.decode([i for i in written if i not in ends], skip_special_tokens=False)
    assert text == case["text"]
    assert model.stats["misses"] > 0


def test_generate_stops_where_the_model_ends_its_answer(form, model):
    case = expected(form, "tool")
    ids = model.tokenizer.encode_chat(case["messages"], tools=case["tools"])
    *said, last = moeflux.stream_generate(model, ids, max_tokens=2 * len(case["ids"]),
                                          temperature=0.0)  # fmt: skip
    assert "".join(part.text for part in (*said, last)) == case["text"]
    assert last.finish_reason == "eos"


def test_the_dense_file_is_refused_by_its_name():
    with pytest.raises(moeflux.FormatError, match=r"unknown general\.architecture 'qwen2'"):
        moeflux.load(Path(FOLDER) / NAME)
