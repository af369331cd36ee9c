"""The lm-evaluation-harness adapter over a stand-in for the harness (lm-eval itself is heavy)."""

import importlib.util
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import moeflux

ADAPTER = Path(__file__).parents[2] / "examples" / "lm_eval_adapter.py"
registered: dict[str, type] = {}


class Hook:
    def __init__(self):
        self.partial = []

    def add_partial(self, attr, request, result):
        self.partial.append((attr, request, result))


class FakeLM:
    """What lm_eval.api.model.LM gives its children."""

    def __init__(self):
        self._rank, self._world_size = 0, 1
        self.cache_hook = Hook()

    @classmethod
    def create_from_arg_string(cls, arguments, additional_config=None):
        pairs = (pair.split("=") for pair in arguments.split(",") if pair)
        parsed = {key: int(value) if value.isdigit() else value for key, value in pairs}
        return cls(
            **parsed, **{k: v for k, v in (additional_config or {}).items() if v is not None}
        )


@dataclass
class Instance:
    args: tuple


def register_model(*names):
    def register(cls):
        registered.update(dict.fromkeys(names, cls))
        return cls

    return register


@pytest.fixture(scope="module")
def lm():
    modules = {name: types.ModuleType(name) for name in
               ("lm_eval", "lm_eval.api", "lm_eval.api.model", "lm_eval.api.registry")}  # fmt: skip
    modules["lm_eval.api.model"].LM = FakeLM
    modules["lm_eval.api.registry"].register_model = register_model
    sys.modules.update(modules)
    try:
        spec = importlib.util.spec_from_file_location("lm_eval_adapter", ADAPTER)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    finally:
        for name in modules:
            del sys.modules[name]
    return registered["moeflux"].create_from_arg_string(
        "memory=24MiB,context=64", {"batch_size": 1, "max_batch_size": None, "device": "cpu"}
    )


def logprobs_of(lm, tokens):
    """float64 log probabilities of tokens[1:], from plain logits."""
    logits = lm.model.session().step(tokens, all_logits=True).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits[np.arange(len(tokens) - 1), tokens[1:]], logits.argmax(axis=1)[:-1] == tokens[1:]


def test_loglikelihoods_are_those_of_the_logits(lm):
    encode = lm.model.tokenizer.encode
    pairs = [("import ", "os"), ("import ", "sys\n"), ("def main(", "argv):"), ("", "import os"),
             ("import ", "os.path"), ("x = 1\n", "")]  # fmt: skip
    lm.cache_hook = Hook()
    answers = lm.loglikelihood([Instance(pair) for pair in pairs])
    for (context, continuation), (total, greedy) in zip(pairs, answers, strict=True):
        before = encode(context.rstrip()) or [lm.prefix_token]
        whole = encode(context + continuation) if context else [*before, *encode(continuation)]
        expected, best = logprobs_of(lm, whole)
        assert total == pytest.approx(expected[len(before) - 1 :].sum(), abs=1e-4)
        assert greedy == best[len(before) - 1 :].all()
    assert sorted(request for _, request, _ in lm.cache_hook.partial) == sorted(pairs)


def test_a_prompt_past_the_context_keeps_its_end(lm):
    encode = lm.model.tokenizer.encode
    context, continuation = "import os\n" * 60, "import sys"
    ((total, _),) = lm.loglikelihood([Instance((context, continuation))])
    before, whole = encode(context.rstrip()), encode(context + continuation)
    n = len(whole) - len(before)
    expected, _ = logprobs_of(lm, whole[-64:])
    assert total == pytest.approx(expected[-n:].sum(), abs=1e-4)


def test_rolling_predicts_every_token_once_with_the_context_there_is(lm):
    text = "import os\nimport sys\n\n\ndef main():\n    print(os.getcwd())\n" * 9
    tokens = [lm.prefix_token, *lm.model.tokenizer.encode(text)]
    assert len(tokens) > 2 * 64
    (total,) = lm.loglikelihood_rolling([Instance((text,))])
    expected, done = 0.0, 1
    while done < len(tokens):
        end = min(done + 63, len(tokens))
        window = tokens[max(0, end - 64) : end]
        expected += logprobs_of(lm, window)[0][len(window) - (end - done) - 1 :].sum()
        done = end
    assert total == pytest.approx(expected, abs=1e-3)
    (short,) = lm.loglikelihood_rolling([Instance(("import os",))])
    encoded = [lm.prefix_token, *lm.model.tokenizer.encode("import os")]
    assert short == pytest.approx(logprobs_of(lm, encoded)[0].sum(), abs=1e-4)


def test_generations_are_greedy_and_stop(lm):
    requests = [Instance(("def main(", {"until": ["\n"], "max_gen_toks": 20})),
                Instance(("import ", {"until": "\n", "do_sample": False, "temperature": 1.0})),
                Instance(("import os\n" * 60, {"max_gen_toks": 4}))]  # fmt: skip
    answers = lm.generate_until(requests)
    model = lm.model
    assert answers[0] == moeflux.generate(model, "def main(", stop="\n", max_tokens=20)
    assert answers[1] == moeflux.generate(model, "import ", stop="\n", max_tokens=58)
    ids = model.tokenizer.encode("import os\n" * 60)[-60:]
    assert answers[2] == moeflux.generate(model, ids, max_tokens=4)
    assert "\n" not in answers[0]
    sampled = [Instance(("import ", {"do_sample": True, "temperature": 2.0, "max_gen_toks": 20}))]
    assert len({lm.generate_until(sampled)[0] for _ in range(4)}) > 1
