"""The kept corpus of `make fuzz-test`: every input is taken, or refused by a typed error."""

import pytest

from fuzz import corpus
from fuzz.targets import TARGETS, attempt


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_taken_or_refused(name):
    inputs = corpus.load(name)
    assert inputs
    assert any([attempt(TARGETS[name], data) for data in inputs])


def test_another_error_is_a_finding():
    with pytest.raises(ZeroDivisionError):
        attempt(lambda data: 1 // len(data), b"")


def test_every_corpus_has_a_target():
    assert {path.stem for path in corpus.FOLDER.iterdir()} == TARGETS.keys()
