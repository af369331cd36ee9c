"""A quantised checkpoint and its twin that stores the same numbers as float32."""

import numpy as np

import moeflux
from moeflux.packing import pack, verify
from support.budget import smallest_budget

ROOM = {"memory": "64MiB", "context": 128, "precision": "float32"}


def prompt(seed):
    """Tokens for `logits`."""
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 250, 40).tolist()


def logits(folder, tokens, chunks=(25, 14, 1), **options):
    """All logits of a prompt in pieces, and the model's counts."""
    model = moeflux.load(folder, **ROOM | options)
    session, out, at = model.session(), [], 0
    for size in chunks:
        out.append(session.step(tokens[at : at + size], all_logits=True))
        at += size
    return np.concatenate(out), model.stats


class SameNumbers:
    """Tests of a module whose fixture `folders` is a checkpoint and its twin."""

    TOKENS: list[int]  # of a prompt, whose logits of the checkpoint are the fixture `expected`

    def test_logits_are_those_of_the_same_numbers_as_float32(self, folders, expected):
        other, _ = logits(folders[1], self.TOKENS)
        assert np.isfinite(other).all() and np.ptp(other) > 1
        assert np.abs(expected - other).max() <= 2e-4

    def test_a_small_budget_changes_no_bit(self, folders, expected):
        options = {name: ROOM[name] for name in ("context", "precision")}
        least = smallest_budget(folders[0], **options)
        found, stats = logits(folders[0], self.TOKENS, memory=least, read_ahead=False)
        assert stats["evictions"] > 0
        assert np.array_equal(found, expected)

    def test_a_packed_folder_gives_the_same_bits(self, folders, expected, tmp_path):
        pack(folders[0], tmp_path / "packed")
        verify(tmp_path / "packed")
        found, stats = logits(tmp_path / "packed", self.TOKENS, max_slots=4)
        assert stats["evictions"] > 0
        assert np.array_equal(found, expected)
