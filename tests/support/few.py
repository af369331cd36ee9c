"""Cases of a test that run every time; the others run in .ci/full."""

import pytest


def few(n, cases):
    """The cases for `parametrize`: the first n as they are, the others marked full."""
    cases = list(cases)
    rest = [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.full)
            for case in cases[n:]]  # fmt: skip
    return cases[:n] + rest
