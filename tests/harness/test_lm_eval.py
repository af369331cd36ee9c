"""lm-evaluation-harness hears the same from the server as from the model in its own process."""

import importlib.util
import json
from pathlib import Path

import lm_eval
import lm_eval.models  # its own, which it registers only where nobody has
import pytest
from lm_eval.tasks import TaskManager

from serve.test_serve_command import server

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = [
    "import os\nprint(os.", "The following example shows how to", "for i in range(", "class ",
    "x = [1, 2, 3]\n", "def f(a, b):\n    return", "Snow \N{SNOWMAN} and",
]  # fmt: skip
CHOICES = [" use", "path", "10):\n    print(i)"]
PARTS = {
    "choice": {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}",
               "doc_to_target": "{{answer}}", "metric_list": [{"metric": "acc"}]},
    "text": {"output_type": "generate_until", "doc_to_target": "{{choices[0]}}",
             "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 20, "temperature": 0},
             "metric_list": [{"metric": "exact_match"}]},
    "rolling": {"output_type": "loglikelihood_rolling", "doc_to_target": "{{text}}{{choices[2]}}",
                "doc_to_text": "", "metric_list": [{"metric": "word_perplexity"}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A task of each kind of request, over the same texts."""
    folder = tmp_path_factory.mktemp("tasks")
    docs = [{"text": text, "choices": CHOICES, "answer": i % 3} for i, text in enumerate(TEXTS)]
    (folder / "docs.json").write_text("\n".join(json.dumps(doc) for doc in docs))
    files = {"data_files": {"test": str(folder / "docs.json")}}
    made = []
    for name, part in PARTS.items():
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": files,
                "test_split": "test", "doc_to_text": "{{text}}"} | part  # fmt: skip
        (folder / f"{name}.yaml").write_text(json.dumps(task))
        made.append(name)
    return made, TaskManager(include_path=str(folder), include_defaults=False)


def responses(model, args, tasks):
    """Task -> what the harness was told, a request each."""
    names, manager = tasks
    found = lm_eval.simple_evaluate(
        model=model, model_args=args, tasks=names, task_manager=manager, log_samples=True,
        bootstrap_iters=0,
    )  # fmt: skip
    return {
        name: [sample["resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
        for name, samples in found["samples"].items()
    }


def test_the_harness_hears_the_same_from_the_server(tasks):
    spec = importlib.util.spec_from_file_location("adapter", EXAMPLES / "lm_eval_adapter.py")
    adapter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapter)
    here = responses("moeflux", {"memory": "24MiB", "context": 1024}, tasks)
    with server() as (_, url):
        args = {"base_url": f"{url}/v1/completions", "model": "demo", "tokenizer_backend": "remote",
                "tokenized_requests": True, "max_length": 1024}  # fmt: skip
        there = responses("local-completions", args, tasks)
    assert set(here) == set(PARTS)
    assert there["text"] == here["text"]
    for ours, theirs in zip(here["choice"], there["choice"], strict=True):
        for (value, greedy), (found, was_greedy) in zip(
            [pair[0] for pair in ours], [pair[0] for pair in theirs], strict=True
        ):
            assert found == pytest.approx(value, abs=1e-6) and was_greedy == greedy
    for ours, theirs in zip(here["rolling"], there["rolling"], strict=True):
        assert theirs == [[pytest.approx(value, abs=1e-6) for value in own] for own in ours]
