"""`moeflux serve` as a process."""

import contextlib
import re
import subprocess
import sys


@contextlib.contextmanager
def serving(command):
    """The address of `moeflux serve` with the flags of a command, on a free port."""
    flags = command.split()[2:]
    if "--port" in flags:
        at = flags.index("--port")
        del flags[at : at + 2]
    line = [sys.executable, "-m", "moeflux.cli", "serve", "--port", "0", *flags]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        try:
            told = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", told)
            assert found, told + process.stderr.read()
            yield found[0]
        finally:
            process.kill()
