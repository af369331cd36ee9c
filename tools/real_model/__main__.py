"""Makes a real model's checkpoints: `python -m real_model FOLDER [--form NAME ..]`. See README.md.

FOLDER gets the file as it was downloaded, and a folder for each form.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from . import parts
from .dense import Dense
from .forms import FORMS, write


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m real_model", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--form", action="append", choices=FORMS, help="of several: all")
    arguments = parser.parse_args()
    dense = Dense(parts.gguf_file(arguments.folder))
    for key in ("general.name", "general.license"):
        print(f"{key}: {dense.key(key) or 'the file does not say'}")
    for form in arguments.form or FORMS:
        begin = time.monotonic()
        made = write(dense, arguments.folder / form, form)
        print(f"{made}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
