"""The kept corpus of `make fuzz-test`: every input is taken, or refused by a typed error."""

import pytest

from fuzz import corpus
from fuzz.seeds import answers
from fuzz.targets import FORMS, TARGETS, attempt, told
from moeflux.serve.parse.markup import MARKUPS


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_taken_or_refused(name):
    taken = []
    for number, data in enumerate(corpus.load(name)):
        try:
            taken.append(attempt(TARGETS[name], data))
        except Exception as error:
            pytest.fail(f"input {number} ({data[:200]!r}): {error!r}")
    assert any(taken)


def test_every_markup_has_a_seed_that_is_a_call():
    """The corpus keeps what covers most, which need not be whole calls."""
    found = set()
    for _, data in answers():
        assert attempt(TARGETS["calls"], data)
        if any(kind == "CallStart" for kind, _ in told(data, 5)):
            found.add(data[0] % len(FORMS))
    assert found == set(range(len(FORMS)))
    forms = [markup.form for markup in FORMS]
    assert all(markup.form in forms for _, markup in MARKUPS)


def test_another_error_is_a_finding():
    with pytest.raises(ZeroDivisionError):
        attempt(lambda data: 1 // len(data), b"")


def test_every_corpus_has_a_target():
    assert {path.stem for path in corpus.FOLDER.iterdir()} == TARGETS.keys()
