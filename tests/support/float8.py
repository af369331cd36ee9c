"""Floats of 8 bits, by OCP's specification."""

import numpy as np


def e4m3(codes):
    """float64 of bytes: sign, four bits of an exponent, three of a fraction."""
    exponent, fraction = (codes >> 3 & 15).astype(np.int32), (codes & 7).astype(np.float64)
    normal = np.ldexp(1 + fraction / 8, exponent - 7)
    value = np.where(exponent == 0, np.ldexp(fraction, -9), normal)
    return np.where(codes & 128, -value, value)
