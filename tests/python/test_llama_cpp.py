"""llama.cpp runs the GGUF form and says what moeflux says of the MLX form.

Runs where llama-cpp-python is installed; CI does not compile it. On CPUs with AMX build it without
(GGML_NATIVE=OFF and the AVX-512 flags by hand): its AMX path crashes on some virtual machines.
"""

import numpy as np
import pytest

import moeflux
from moeflux.synth import Recipe, synthesize
from moeflux.synth.gguf import FILE_NAME

SETTINGS = ("num_experts=32", "vocab_size=2048", "moe_intermediate_size=256")
TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(2)).integers(0, 2048, 40)]


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def llama():
    return pytest.importorskip("llama_cpp")


@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_llama_cpp_and_moeflux_agree_on_the_same_weights(llama, tmp_path, skew):
    recipe = Recipe("qwen3-30b-a3b", 3, SETTINGS, seed=6, skew=skew)
    folder = synthesize(tmp_path / "m", recipe, with_gguf=True)
    ours = moeflux.load(folder, memory="1GiB", context=64).session().step(TOKENS, all_logits=True)
    peer = llama.Llama(str(folder / FILE_NAME), n_ctx=64, n_threads=2, n_threads_batch=2,
                       logits_all=True, verbose=False)  # fmt: skip
    assert peer.n_vocab() == 2048 and peer.token_eos() == 256
    assert peer.tokenize(b"abc", add_bos=False) == list(b"abc")
    peer.eval(TOKENS)
    theirs = np.array(peer.scores[: len(TOKENS)])
    # llama.cpp rounds activations to 8 bits (Q8_0): no bit equality, but the same model.
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
    ours_log, theirs_log = log_softmax(ours), log_softmax(theirs)
    divergence = (np.exp(ours_log) * (ours_log - theirs_log)).sum(axis=1).mean()
    assert divergence < 2e-3
