"""Random damage to every kind of file of a checkpoint: it loads and runs, or it is a typed error.

Nothing else may happen: no other exception, no crash, no hang, no memory far beyond the budget, no
read out of bounds (the ASan build, which keeps what was freed and so counts no memory, runs this
too: `make hostile-asan`). Longer: MOEFLUX_FUZZ_EXAMPLES=5000. Cases worth keeping stand in
corpus.jsonl, one a line as a failure prints it, and are replayed every time.
"""

import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import moeflux
from hostile.mutation import apply, mutations, templates
from oracle import build
from support import privileges

CORPUS = Path(__file__).with_name("corpus.jsonl")
FULL = os.environ.get("MOEFLUX_FULL") == "1"
EXAMPLES = int(os.environ.get("MOEFLUX_FUZZ_EXAMPLES", "250" if FULL else "100"))
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
WEIGHTS = ["config.json", "model.safetensors.index.json", *SHARDS]
TEXT = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]
FORMS = [("qwen3_moe", "mlx-q4"), ("qwen3_next", "mlx-q4"), ("qwen3_next", "hf-bf16"),
         ("qwen3_5_moe", "mlx-q4"), ("nemotron_h", "mlx-q4")]  # fmt: skip

MOST_BYTES = 300 << 20  # that one case may add to the peak of all before it
MOST_SECONDS = 60

limits = {"deadline": None, "print_blob": True, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("mutations")
    return [build(root / str(i), family=f, form=form) for i, (f, form) in enumerate(FORMS)]


def damaged(folder, damage, into):
    for path in folder.iterdir():
        (Path(into) / path.name).symlink_to(path)
    for mutation in damage:
        apply(Path(into), mutation)
    return into


def run(folder, with_text):
    """Everything a user would do; typed errors are the expected answer."""
    try:
        model = moeflux.load(folder, memory="64MiB", context=64, threads=1)
        model.session().step([1, 2, 3])
        if with_text:
            moeflux.generate(model, "ab", max_tokens=3)
            moeflux.generate(model, messages=[{"role": "user", "content": "a"}], max_tokens=3)
    except moeflux.MoefluxError as error:
        assert str(error)


def ring(*_):
    raise TimeoutError(f"no end after {MOST_SECONDS} seconds")


def run_locked(folder, modes, with_text):
    """As `run`; a folder that is locked at the end, without the rights of a superuser."""
    if not modes:
        return run(folder, with_text)
    os.chmod(folder, modes[-1])
    try:
        with privileges.dropped():
            run(folder, with_text=False)  # a tokenizer may be imported: not from everywhere
    finally:
        os.chmod(folder, 0o700)


def peak_bytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def check(folder, damage, with_text=False):
    modes = [mutation["value"] for mutation in damage if mutation["do"] == "lock"]
    signal.signal(signal.SIGALRM, ring)
    with tempfile.TemporaryDirectory() as into:
        try:
            damaged(folder, damage, into)
            before = peak_bytes()
            signal.alarm(MOST_SECONDS)
            run_locked(into, modes, with_text)
            added = peak_bytes() - before
            assert added < MOST_BYTES or "asan" in os.environ.get("LD_PRELOAD", ""), added
        except Exception as error:
            case = json.dumps({"form": folder.name, "damage": damage})
            raise AssertionError(f"{type(error).__name__}: {error}; corpus line: {case}") from error
        finally:
            signal.alarm(0)


@settings(max_examples=EXAMPLES, **limits)
@given(form=st.sampled_from(range(len(FORMS))), damage=st.lists(mutations(WEIGHTS), max_size=2))
def test_damaged_weights_and_configs_load_or_are_refused(folders, form, damage):
    check(folders[form], damage)


@settings(max_examples=EXAMPLES // 5, **limits)
@given(damage=st.lists(mutations(TEXT), min_size=1, max_size=2))
def test_damaged_tokenizers_work_or_are_refused(folders, damage):
    check(folders[0], damage, with_text=True)


@settings(max_examples=max(EXAMPLES // 20, 10), **limits)
@given(template=templates())
def test_strange_templates_render_or_are_refused(folders, template):
    check(folders[0], [template], with_text=True)


@pytest.mark.parametrize("line", CORPUS.read_text().splitlines())
def test_kept_cases_load_or_are_refused(folders, line):
    case = json.loads(line)
    check(folders[int(case["form"])], case["damage"], with_text=True)
