"""Rooms of python/moeflux depend downwards only (docs/architecture.md)."""

import subprocess
import sys

LATER = ("planning", "packing", "doctor", "synth", "commands", "bench", "trace", "remote")


def test_loading_and_stepping_import_no_room_that_they_do_not_need():
    script = (
        "import sys, moeflux;"
        "model = moeflux.load(memory='24MiB', context=64);"
        "model.session().step([1, 2, 3]);"
        "print(*{name.split('.')[1] for name in sys.modules if name.startswith('moeflux.')})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "model" in imported
    assert not imported & set(LATER)
