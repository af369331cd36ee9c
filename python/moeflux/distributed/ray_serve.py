"""Replicas on Ray Serve: the server's app before one model in each of several processes.

serve run moeflux.distributed.ray_serve:application model=demo-chat context=2048 replicas=2

See docs/scale.md.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import exceptions, serve

from .. import hub
from ..arguments import check, integer, number, optional
from ..checkpoint import open_checkpoint
from ..errors import FormatError
from ..model import load
from ..serve.app import create_app
from ..serve.engine import Delta, EngineError, Job
from ..serve.local import EngineSettings, LocalEngine
from ..serve.settings import Settings
from ..tokenizer import Tokenizer
from .remote import About, RayEngine, Source

LOST = (exceptions.RayActorError, exceptions.ActorUnavailableError, exceptions.WorkerCrashedError)
REPLICA = "Replica"
START_SECONDS = 1800.0  # for the first replica's load
DELAY = number("of seconds of 0 or more", lambda value: 0 <= value < 1e9)
RULES = {"replicas": integer(1), "most": integer(1), "ongoing": optional(integer(1)),
         "upscale_delay": DELAY, "downscale_delay": DELAY}  # fmt: skip


class Replica:
    """A model in a process of its own.

    Args:
        model: as for `load`; its files must be on this machine's own disk.
        name: that clients call it by.
        engine: fields of EngineSettings.
        options: of `load`.
    """

    def __init__(
        self, model: str | None, name: str, engine: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._engine = LocalEngine(load(model, **options), name, EngineSettings(**engine))
        self._is_exact = options.get("device", "cpu") == "cpu"

    async def submit(self, job: Job, fingerprint: str) -> AsyncIterator[Delta]:
        """Runs a job, for a client who knows a replica of this fingerprint."""
        if job.done and fingerprint != self._engine.info.fingerprint:
            raise EngineError("[serve] expected a replica of the same model, precision and "
                              "instruction set to go on, found another")  # fmt: skip
        if isinstance(job.constraint, Source):
            said = job.constraint
            grammar = await self._engine.compile(said.kind, said.source, strict=said.strict)
            job = replace(job, constraint=grammar)
        async for delta in self._engine.submit(job):
            yield delta

    async def compile(self, kind: str, source: str, strict: bool) -> None:
        """Tries a grammar."""
        await self._engine.compile(kind, source, strict=strict)

    async def about(self) -> About:
        """What it is, and how it does."""
        engine = self._engine
        return About(engine.info, engine.health(), dict(engine.stats()), self._is_exact)

    def check_health(self) -> None:
        """Raises EngineError when it computes no more: Ray starts another."""
        health = self._engine.health()
        if health.state == "failed":
            raise EngineError(health.detail)

    async def __del__(self) -> None:
        """Ray has let its requests finish."""
        await self._engine.drain(0)


def application(said: Mapping[str, Any]) -> serve.Application:
    """What `serve run` and a config file start.

    Args:
        said: "model" and "name"; "replicas", or "replicas" and "most" for a number that follows the
            load, "upscale_delay" (30) and "downscale_delay" (600) seconds behind it; "ongoing":
            requests of a replica at once; "engine": fields of EngineSettings; "settings": of
            Settings; all else is for `load`.

    Raises:
        FormatError: a number is none, or "most" is below "replicas".
    """
    options: dict[str, Any] = {key: _typed(value) for key, value in said.items()}
    model, name = options.pop("model", None), str(options.pop("name", "model"))
    replicas = options.pop("replicas", 1)
    counts = {"replicas": replicas, "most": options.pop("most", replicas),
              "ongoing": options.pop("ongoing", None),
              "upscale_delay": options.pop("upscale_delay", 30),
              "downscale_delay": options.pop("downscale_delay", 600)}  # fmt: skip
    check("serve", FormatError, RULES, counts)
    if counts["most"] < replicas:
        raise FormatError(f"[serve] most: expected {replicas} replicas or more, found "
                          f"{counts['most']}")  # fmt: skip
    engine, given = options.pop("engine", {}), options.pop("settings", {})
    fields: dict[str, Any] = {  # a file has lists
        key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
    }
    settings = Settings(**fields)
    limits = EngineSettings(**engine)
    if limits.reserve is None and replicas > 1:  # whichever dies, others have room for its answers
        engine = {**engine, "reserve": 1 / replicas}
    ongoing = counts["ongoing"] or (limits.max_running or 16) + limits.max_queued
    scaling: dict[str, Any] = {"num_replicas": replicas}
    if counts["most"] > replicas:
        wanted = limits.max_running or 8
        scaling = {"autoscaling_config": {
            "min_replicas": replicas, "max_replicas": counts["most"],
            "target_ongoing_requests": wanted, "upscale_delay_s": counts["upscale_delay"],
            "downscale_delay_s": counts["downscale_delay"],
        }}  # fmt: skip
    replica = serve.deployment(
        Replica, name=REPLICA, max_ongoing_requests=ongoing,
        graceful_shutdown_timeout_s=settings.drain, health_check_period_s=5,
        request_router_config=_router(), **scaling,
    )  # fmt: skip

    where = {key: options[key] for key in ("revision", "offline") if key in options}
    source = partial(hub.resolve, model, **where)

    @serve.deployment(max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0},
                      graceful_shutdown_timeout_s=settings.drain)  # fmt: skip
    @serve.ingress(lambda: _app(source, name, settings))
    class Ingress:
        def __init__(self, replicas: Any) -> None:
            """`replicas` makes Ray start them first."""

    return Ingress.bind(replica.bind(model, name, engine, options))  # type: ignore[attr-defined]


def _router() -> Any:
    """Requests of one session meet one replica, and another only while that is full or gone."""
    from ray.serve.config import RequestRouterConfig

    path = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
    return RequestRouterConfig(request_router_class=path)


def _app(source: Callable[[], Path], name: str, settings: Settings) -> Any:
    """The server's app in the process of an ingress."""
    handle = serve.get_deployment_handle(REPLICA, app_name=serve.get_replica_context().app_name)
    checkpoint = open_checkpoint(source())
    found: list[About] = []

    def ask() -> None:  # on a thread: this one may run an event loop
        found.append(handle.about.remote().result(timeout_s=START_SECONDS))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    if not found:
        raise EngineError("[serve] no replica could say what it serves")
    tokenizer = Tokenizer(checkpoint.path, checkpoint.config)
    return create_app({name: RayEngine(handle, found[0], tokenizer, LOST)}, settings)


def _typed(value: Any) -> Any:
    """Numbers come as texts from a command line."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value
