"""A prompt in pieces, forked and restored on the way, beside the prompt in one."""

import numpy as np

PIECES = (1, 1, 1, 40, 2, 3, 1, 41)  # shorter and longer than the history of any convolution
KEPT_AT = 45  # tokens: between two of them


def assert_same_bits(model, tokens):
    """Steps of PIECES give the logits of one prompt; so do a fork and a snapshot of the middle."""
    assert len(tokens) == sum(PIECES)
    whole = model.session().step(tokens, all_logits=True)
    session, at = model.session(), 0
    for n in PIECES:
        found = session.step(tokens[at : at + n], all_logits=True)
        assert np.array_equal(found, whole[at : at + n])
        at += n
        if at == KEPT_AT:
            kept, fork = session.save(), session.fork()
    for other in (fork, model.session()):
        if other is not fork:
            other.restore(kept)
        assert np.array_equal(other.step(tokens[KEPT_AT:], all_logits=True), whole[KEPT_AT:])
