"""Puts tests/ on the path, so that every test can `import oracle`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
