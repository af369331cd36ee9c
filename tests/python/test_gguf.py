"""A GGUF file is a checkpoint: the logits are those of its weights, decoded by `gguf` itself."""

import numpy as np
import pytest

import moeflux
from oracle import goldens
from support import gguf_twin

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(5)).integers(0, 250, 40)]
ROOM = {"memory": "256MiB", "context": 64}


def logits(path, **options):
    return moeflux.load(path, **ROOM | options).session().step(TOKENS, all_logits=True)


def test_numbers_as_f32_give_the_bits_of_the_same_numbers_in_safetensors(tmp_path):
    path, twin = gguf_twin.make(tmp_path, "qwen3_moe")
    assert np.array_equal(logits(path), logits(twin))


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "BF16", "mixed"])
def test_a_file_computes_what_its_weights_mean(kind, tmp_path):
    kinds = gguf_twin.mixed if kind == "mixed" else kind
    path, twin = gguf_twin.make(tmp_path, "qwen3_moe", kinds, branch_gain=0.25)
    difference = np.abs(logits(path) - logits(twin))
    worst, mean = goldens.TOLERANCE["qwen3_moe"]
    assert difference.max() <= worst and difference.mean() <= mean
