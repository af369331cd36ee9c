"""Rows through Ray Data: answers beside their rows, and a run that was killed goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import ray

from moeflux.distributed.batches import MoefluxBatch
from moeflux.distributed.kept import SUFFIX

ROWS = 40
ARGUMENTS = {"model": "demo-chat", "context": 512, "memory": "64MiB", "threads": 1,
             "fields": {"max_tokens": 16, "temperature": 0.8}}  # fmt: skip


def write(path):
    rows = [{"id": i, "messages": [{"role": "user", "content": f"What is {i} plus 2?"}]}
            for i in range(ROWS)]  # fmt: skip
    rows[7]["messages"] = []
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def answers(path, folder):
    done = ray.data.read_json(str(path)).map_batches(
        MoefluxBatch, batch_size=8, concurrency=1,
        fn_constructor_kwargs={**ARGUMENTS, "answered": str(folder)},
    )  # fmt: skip
    return {row["id"]: (row["answer"], row["error"]) for row in done.take_all()}


def test_answers_are_beside_their_rows(tmp_path):
    write(tmp_path / "in.jsonl")
    found = answers(tmp_path / "in.jsonl", tmp_path / "rows")
    assert sorted(found) == list(range(ROWS))
    failed = [i for i, (answer, error) in found.items() if answer is None or error is not None]
    assert failed == [7]
    one = MoefluxBatch(**ARGUMENTS)
    import numpy as np

    column = np.empty(1, dtype=object)
    column[:] = [[{"role": "user", "content": "What is 3 plus 2?"}]]
    assert one({"messages": column})["answer"][0] == found[3][0]
    one.close()


def test_a_run_that_was_killed_goes_on(tmp_path):
    write(tmp_path / "in.jsonl")
    wanted = answers(tmp_path / "in.jsonl", tmp_path / "undisturbed")
    folder = tmp_path / "rows"
    script = (
        "import ray, sys; sys.path.insert(0, sys.argv[1]); import test_ray_data as t; "
        "from pathlib import Path; "
        "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False); "
        "t.answers(Path(sys.argv[2]), Path(sys.argv[3]))"
    )
    arguments = [os.path.dirname(__file__), str(tmp_path / "in.jsonl"), str(folder)]
    run = subprocess.Popen([sys.executable, "-c", script, *arguments], start_new_session=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while run.poll() is None and not any(folder.glob(f"*{SUFFIX}")):
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = sum(len(path.read_bytes().splitlines()) for path in folder.glob(f"*{SUFFIX}"))
    assert 0 < before < ROWS
    assert answers(tmp_path / "in.jsonl", folder) == wanted
    after = sum(len(path.read_bytes().splitlines()) for path in folder.glob(f"*{SUFFIX}"))
    assert after == ROWS
