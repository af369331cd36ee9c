"""What tests of snapshots share: a prompt, small models, and a session that stands beside."""

from contextlib import contextmanager

import numpy as np

N = 600  # two extents of the KV cache and a part of a third
TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(8)).integers(0, 250, N)]
SHAPE = {"num_experts": 6, "num_experts_per_tok": 6}
FEW = {"memory": "256MiB", "max_slots": 6, "threads": 2}  # experts come and go


def held(model):
    """Bytes of the budget, but for slots."""
    stats = model.stats
    return stats["live_bytes"] - stats["slots"] * stats["slot_bytes"]


@contextmanager
def unharmed(model, whole):
    """A session that stands beside what happens, and the budget."""
    session = model.session()
    session.step(TOKENS[:5])
    before = held(model)
    yield session
    assert held(model) == before
    assert np.array_equal(session.step(TOKENS[5:8], all_logits=True), whole[5:8])


def small_file(model, path):
    """The bytes of a snapshot of three tokens."""
    session = model.session()
    session.step(TOKENS[:3])
    session.save().write(path, tokens=TOKENS[:3], note="a note")
    return path.read_bytes()
