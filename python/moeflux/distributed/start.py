"""`moeflux serve --ray`: starts the application, and ends it at a signal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import serve

from ..serve.engine import EngineError
from .ray_serve import application

NAME = "moeflux"  # of the application


def run(said: Mapping[str, Any], host: str, port: int, ready: Callable[[], None]) -> None:
    """Serves until SIGINT or SIGTERM, which lets answers finish; another one does not wait.

    Replicas are processes of the cluster at RAY_ADDRESS, else of one on this machine, which ends
    with this process.

    Args:
        said: see `application`.
        host: that Ray's proxy listens on.
        port: of it.
        ready: is called when clients can come.

    Raises:
        FormatError: as `application`.
        EngineError: replicas could not be started; Ray's log says why.
    """
    app = application(said)
    where: dict[str, Any] = {"address": os.environ.get("RAY_ADDRESS")}
    if where["address"] is None:  # as many processes as are asked for, whatever the cores
        most = max(int(said.get("most", 1)), int(said.get("replicas", 1)))
        where = {"address": "local", "num_cpus": max(most + 1, os.cpu_count() or 1)}
    ray.init(**where, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": host, "port": port})
        try:
            serve.run(app, name=NAME)
        except RuntimeError as error:
            raise EngineError(f"[serve] {str(error).strip()}") from None
        told = threading.Event()
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, lambda *_: told.set())
        ready()
        told.wait()
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, signal.default_int_handler)
        serve.delete(NAME)  # waits for replicas, which let their answers finish
        serve.shutdown()
    finally:
        ray.shutdown()
