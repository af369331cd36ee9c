"""Answers every row of a file with Ray Data: `python examples/ray_batch.py in.jsonl out MODEL`.

A row of in.jsonl has a talk in "messages" and whatever else; out gets files of rows with "answer",
"finish_reason", "prompt_tokens", "answer_tokens" and "error" beside. Run the same command again
after whatever ended it: rows that are answered are taken from out/answered.

Needs moeflux[ray]. One actor takes one model's memory: CONCURRENCY of them share a machine's cores
and its disk, so that more than one pays on several machines only.
"""

import os
import sys
from pathlib import Path

import ray

from moeflux.distributed.batches import MoefluxBatch

CONCURRENCY = int(os.environ.get("CONCURRENCY", "1"))


def main() -> None:
    """Answers the rows that have no answer yet."""
    source, out, model = sys.argv[1:]
    rows = ray.data.read_json(source)
    done = rows.map_batches(
        MoefluxBatch,
        batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=CONCURRENCY),
        fn_constructor_kwargs={
            "model": model,
            "context": 4096,
            "answered": str(Path(out).absolute() / "answered"),
            "fields": {"max_tokens": 256, "temperature": 0},
        },
    )
    done.write_json(str(Path(out).absolute() / "rows"), mode="overwrite")


if __name__ == "__main__":
    main()
