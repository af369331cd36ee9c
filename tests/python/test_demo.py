"""The shipped demo model writes what transformers writes from the same (dequantised) weights."""

import json
from pathlib import Path

import pytest

import moeflux
from support import greedy

CASES = json.loads((Path(__file__).parents[1] / "golden" / "demo.json").read_text())
MAX_BYTES = 16_000_000


@pytest.fixture(scope="module")
def model():
    return moeflux.load(memory="24MiB", context=256, precision="float32")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["prompt"][:16])
def test_greedy_text_equals_transformers_while_streaming(case, model):
    written = greedy.write(model, case, len(case["continuation_ids"]))
    assert written == case["continuation_ids"]
    assert model.tokenizer.decode(written) == case["continuation"]
    assert model.stats["misses"] > 0


def test_prompt_ids_come_from_the_shipped_tokenizer(model):
    for case in CASES:
        assert list(model.tokenizer.encode(case["prompt"])) == case["prompt_ids"]


def test_shipped_folder_stays_small():
    folder = Path(moeflux.__file__).parent / "demo"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_BYTES
