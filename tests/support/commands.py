"""Commands in processes of their own, without the start of Python: the package is imported once.

A server of multiprocessing's has imported it and forks for each command, which saves 0.3 s of
processor. What streams, signals and exit are to a whole process is tested on the module itself.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["moeflux.cli", "support.commands"])


def run_moeflux(*args, env=None, cwd=None, stdin=""):
    """Runs `moeflux` with these arguments.

    Args:
        env: its whole environment; default: this process's.
        cwd: the folder that it runs in; default: this process's.
        stdin: text that it reads.

    Returns:
        A `subprocess.CompletedProcess`, with the text of its output.
    """
    words = [str(arg) for arg in args]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        for stream, text in zip(streams, (stdin, "", ""), strict=True):
            stream.write_text(text)
        settings = (words, streams, dict(env or os.environ), cwd or os.getcwd())
        process = _server.Process(target=_command, args=settings)
        process.start()
        process.join(timeout=120)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout=120)
        shown = [stream.read_text() for stream in streams[1:]]
        return subprocess.CompletedProcess(words, process.exitcode, *shown)


def _command(words, streams, environment, folder):
    """The process: `main` ends it with its exit status."""
    from moeflux.cli import main

    for number, stream in enumerate(streams):
        os.dup2(os.open(stream, os.O_RDWR), number)
    sys.stdin = open(0)  # noqa: SIM115 - multiprocessing closed it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["moeflux", *words]
    main()
