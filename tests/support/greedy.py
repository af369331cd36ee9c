"""What a shipped model writes, beside what transformers wrote from the same weights."""

import numpy as np


def write(model, case, n):
    """The `n` best tokens in turn behind a golden prompt, whose best five logits are compared."""
    session = model.session()
    logits = session.step(case["prompt_ids"])
    best = np.argsort(-logits)[:5]
    assert best.tolist() == case["top5_ids"]
    np.testing.assert_allclose(logits[best], case["top5_logits"], atol=5e-4)
    written = []
    for _ in range(n):
        written.append(int(np.argmax(logits)))
        logits = session.step(written[-1:])
    return written
