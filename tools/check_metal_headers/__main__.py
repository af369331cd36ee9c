"""Usage: python -m check_metal_headers --include tests/metal_standin/include --wheels FOLDER.

FOLDER keeps the witnesses' wheels, which are downloaded from PyPI. Exit status 1: a difference.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import ours, witnesses
from .compare import Comparison


def main() -> int:
    parser = argparse.ArgumentParser(prog="check_metal_headers", description=__doc__)
    parser.add_argument("--include", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, required=True)
    arguments = parser.parse_args()
    comparison = Comparison(ours.read(arguments.include), witnesses.read(arguments.wheels))
    for witness, count in comparison.confirmed.most_common():
        print(f"{count:4} declarations confirmed by {witness}")
    for difference in comparison.differences:
        print(f"differs: {difference}")
    return 1 if comparison.differences else 0


if __name__ == "__main__":
    sys.exit(main())
