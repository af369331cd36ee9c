"""Breaks the GPU path of a model one way at a time; its C++ tests must notice each.

    python tools/mutants/gpu.py [--work DIR] [--only TEXT]

Edits of csrc/ops/gpu, of the engine's pipeline, and, since every dispatch of a command buffer is
ordered behind those before it, one edit for each kernel that takes this order away: what the kernel
writes holds nobody back. Works on a copy of the checkout, as metal.py does. About a quarter of an
hour on two cores.
"""

import sys

from gpu_mutants import MUTANTS
from metal import Suite, main

GPU = Suite(
    target="moeflux_tests",
    folder="tests/cpp",
    options=("-DMOEFLUX_HOST_CHECKS=ON",),
    arguments=("--source-file=*test_gpu*,*test_device_arena*",),
    mutants=MUTANTS,
    work="mutants-gpu",
)

if __name__ == "__main__":
    sys.exit(main(GPU, __doc__))
