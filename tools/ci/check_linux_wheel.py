"""Repairs a Linux wheel with auditwheel, and tells which systems it fits; or fails.

python tools/ci/check_linux_wheel.py WHEEL OUT [WORST]   # WORST: such as manylinux_2_36
"""

import re
import subprocess
import sys
from pathlib import Path


def policy(shown: str) -> tuple[int, int]:
    """The C library that `auditwheel show` says is enough."""
    text = " ".join(shown.split())
    found = re.search(r'consistent with the following platform tag: "manylinux_(\d+)_(\d+)_', text)
    if found is None:
        raise SystemExit(f"expected a manylinux platform tag, found:\n{shown}")
    return int(found[1]), int(found[2])


def main() -> None:
    wheel, out, *rest = sys.argv[1:]
    worst = re.fullmatch(r"manylinux_(\d+)_(\d+)", rest[0]) if rest else None
    auditwheel = [sys.executable, "-m", "auditwheel"]
    shown = subprocess.run([*auditwheel, "show", wheel], capture_output=True, text=True, check=True)
    needs = policy(shown.stdout)
    print(f"{Path(wheel).name}: glibc {needs[0]}.{needs[1]} or newer")
    if worst is not None and needs > (int(worst[1]), int(worst[2])):
        raise SystemExit(f"expected {rest[0]} or older")
    subprocess.run([*auditwheel, "repair", "-w", out, wheel], check=True)


if __name__ == "__main__":
    main()
