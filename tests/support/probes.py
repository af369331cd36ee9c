"""Probes of the machine that touch few bytes: their rates are of no accuracy."""

from moeflux.planning import probe


def make_small(put=setattr):
    """Sets sizes and times of probes; `put` takes what setattr takes."""
    put(probe, "FILE_BYTES", 1 << 20)
    put(probe, "MEMORY_BYTES", 1 << 22)
    put(probe, "LAYER_SECONDS", 0.01)
