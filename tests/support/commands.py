"""Commands in processes of their own, without the start of Python: the package is imported once.

A server of multiprocessing's has imported it and forks for each command, which saves 0.3 s of
processor, and 1 s where a command serves. What streams, signals and exit are to a whole process is
tested on the module itself. Probes of the machine are small; MOEFLUX_FULL=1 leaves them whole.
"""

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# What commands import as they begin: typer's and the hub's clients, without the hub's own package,
# which reads its settings then. The server passes over names that this machine has not.
_LATER = [
    *("support.cli_once", "typer._adapters", "rich.console"),
    *("moeflux.serve.batch.run", "moeflux.serve.local"),
    *("httpx2", "anyio.streams.tls", "filelock", "fsspec", "tqdm.auto", "yaml"),
]
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["moeflux.cli", "support.commands", *_LATER])


def run_moeflux(*args, **options):
    """Runs `moeflux` with these arguments; further ones are those of `forked`."""
    return forked(_moeflux, [str(arg) for arg in args], **options)


def forked(work, *args, env=None, cwd=None, stdin="", put=None, seconds=120):
    """Calls a function of a module in a process of its own.

    Args:
        env: its whole environment; default: this process's.
        cwd: the folder that it runs in; default: this process's.
        stdin: text that it reads.
        put: values that take the place of others there, by names such as "moeflux.state.NAME".
        seconds: after which it is killed.

    Returns:
        A `subprocess.CompletedProcess`, with the text of its output.

    Raises:
        subprocess.TimeoutExpired: it was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        for stream, text in zip(streams, (stdin, "", ""), strict=True):
            stream.write_text(text)
        settings = (streams, dict(env or os.environ), cwd or os.getcwd(), put or {})
        process = _server.Process(target=_call, args=(settings, work, args))
        process.start()
        process.join(timeout=seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(args, timeout=seconds)
        shown = [stream.read_text() for stream in streams[1:]]
        return subprocess.CompletedProcess(args, process.exitcode, *shown)


def _call(settings, work, args):
    """The process."""
    from support import probes

    if os.environ.get("MOEFLUX_FULL") != "1":
        probes.make_small()
    streams, environment, folder, put = settings
    for number, stream in enumerate(streams):
        os.dup2(os.open(stream, os.O_RDWR), number)
    sys.stdin = open(0)  # noqa: SIM115 - multiprocessing closed it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for name, value in put.items():
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, value)
    work(*args)


def _moeflux(words):
    from moeflux.cli import main  # which ends the process with its exit status

    sys.argv = ["moeflux", *words]
    main()
