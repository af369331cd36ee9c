"""These tests need ziglang, lief and 80 MB of wheels: `make metal-headers` brings them."""

import os

if "MOEFLUX_METAL_WHEELS" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
