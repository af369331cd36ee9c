#!/usr/bin/env python3
"""Write tests/golden/mlx_quantize.json: digests of what MLX's quantiser makes of numbers.

See README.md here.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path.insert(0, str(TESTS))
from oracle import quantizer_cases as quantizer  # noqa: E402


def raw(array: mx.array) -> bytes:
    """The bytes of an array of any dtype."""
    words = mx.uint16 if array.itemsize == 2 else mx.uint32
    return np.array(mx.view(array, words)).tobytes()


def main() -> None:
    """Quantise on the CPU."""
    mx.set_default_device(mx.cpu)
    digests = {}
    for dtype, bits, group in quantizer.cases():
        numbers = mx.array(quantizer.numbers(dtype)).astype(getattr(mx, quantizer.DTYPES[dtype]))
        parts = mx.quantize(numbers, group_size=group, bits=bits)
        digests[quantizer.name(dtype, bits, group)] = quantizer.digest(map(raw, parts))
    golden = {"mlx": version("mlx"), "digests": digests}
    (TESTS / "golden" / "mlx_quantize.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
