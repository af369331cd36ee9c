"""`moeflux serve`: a model for many clients, over HTTP."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .. import errors
from ..terminal import note
from . import options

if TYPE_CHECKING:
    from ..model import Model
    from ..serve.local import LocalEngine
    from ..serve.settings import Settings


def serve(
    model: options.ModelArgument = None,
    named: options.Model = None,
    name: Annotated[
        Optional[str], typer.Option(help="What clients call the model; its folder's name else.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8080,
    revision: options.Revision = None,
    offline: options.Offline = False,
    memory: options.Memory = "auto",
    context: options.Context = 32768,
    device: options.Device = "cpu",
    precision: options.Precision = "float32",
    kv: options.Kv = None,
    rows: options.Rows = None,
    threads: options.Threads = None,
    max_running: Annotated[
        str,
        typer.Option(help="Answers at once; auto: as many as --min-tokens-per-second allows."),
    ] = "auto",
    min_tokens_per_second: Annotated[
        float, typer.Option(help="Of each answer, where --max-running is auto.")
    ] = 1.0,
    max_queued: Annotated[int, typer.Option(help="Requests that may wait.")] = 64,
    queue_timeout: Annotated[
        str, typer.Option(help="Seconds that a request may wait for its turn; 0 or none: any.")
    ] = "600",
    request_timeout: Annotated[
        str, typer.Option(help="Seconds that a request may take in all; 0 or none: any.")
    ] = "none",
    prefill_share: Annotated[
        float, typer.Option(help="Of the time, for prompts, while answers are written.")
    ] = 0.5,
    cache_memory: Annotated[
        str, typer.Option(help="For prompts to come: a size, or a share of what is free.")
    ] = "25%",
    cache_dir: Annotated[
        Optional[str], typer.Option(help="Keep prompts in this folder, too, for the next start.")
    ] = None,
    cache_disk: Annotated[
        Optional[str], typer.Option(help="Of all files there; 8GiB where it is not given.")
    ] = None,
    cache_writes: Annotated[
        Optional[str], typer.Option(help="To write there in a day; 20GiB where it is not given.")
    ] = None,
    api_key: Annotated[
        Optional[list[str]],
        typer.Option(help="Clients must send it; repeatable. MOEFLUX_API_KEY's in its place."),
    ] = None,
    api_key_file: Annotated[Optional[Path], typer.Option(help="Keys, one a line.")] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve other machines without a key.")
    ] = False,
    allowed_host: Annotated[
        Optional[list[str]], typer.Option(help="One more name of this server; repeatable.")
    ] = None,
    cors_origin: Annotated[
        Optional[list[str]], typer.Option(help="A web page that may ask; repeatable.")
    ] = None,
    max_body: Annotated[str, typer.Option(help="Of a request.")] = "16MiB",
    chat_template: options.ChatTemplate = None,
    reasoning: options.Reasoning = "auto",
    no_page: Annotated[bool, typer.Option("--no-page", help="Serve no page to chat on.")] = False,
    drain: Annotated[float, typer.Option(help="Seconds for answers to finish in at the end.")] = 30,
    ray: Annotated[
        bool, typer.Option("--ray", help="In processes of Ray Serve: needs moeflux[ray].")
    ] = False,
    replicas: Annotated[int, typer.Option(help="Processes of --ray, each with a model.")] = 1,
    most_replicas: Annotated[
        Optional[int], typer.Option(help="Processes of --ray at most, while requests wait.")
    ] = None,
    verbose: options.Verbose = False,
) -> None:
    """Serve a model to agents and apps: OpenAI's and Anthropic's APIs."""
    require_extra()
    model = options.one_model(model, named)
    from ..memory import parse_bytes
    from ..serve.local import EngineSettings
    from ..serve.settings import Settings

    engine_settings = EngineSettings(
        max_running=running(max_running), max_queued=max_queued, min_rate=min_tokens_per_second,
        prefill_share=prefill_share, cache_memory=cache_memory,
        cache_dir=cache_dir, cache_disk=cache_disk, cache_writes=cache_writes,
        queue_timeout=seconds("queue_timeout", queue_timeout),
    )  # fmt: skip
    settings = Settings(
        host=host, port=port, api_keys=_keys(api_key, api_key_file), no_auth=no_auth,
        allowed_hosts=tuple(allowed_host or ()), cors_origins=tuple(cors_origin or ()),
        max_body=parse_bytes(max_body), drain=drain, reasoning=reasoning,
        page=not no_page, chat_template=template(chat_template),
        request_timeout=seconds("request_timeout", request_timeout),
    )  # fmt: skip
    from concurrent.futures import ThreadPoolExecutor
    from importlib import import_module

    from ..serve.run import bind

    load_options = {
        "memory": memory, "context": context, "device": device, "precision": precision, "kv": kv,
        "rows": rows, "threads": threads, "revision": revision, "offline": offline,
    }  # fmt: skip
    if not ray and (replicas, most_replicas) != (1, None):
        raise errors.SessionError("[serve] replicas: expected --ray with it, found none")
    listener = bind(host, port)  # before a load that may take long
    if ray:
        said = {"model": model, "name": name or named_as(model), "replicas": replicas,
                "most": most_replicas or replicas, "engine": vars(engine_settings),
                "settings": vars(settings), **load_options}  # fmt: skip
        _on_ray(said, listener)
        return
    from ..model import load
    from ..serve.local import LocalEngine

    with ThreadPoolExecutor(1) as beside:  # imports take as long as the load of a small model
        app = beside.submit(import_module, "moeflux.serve.app")
        loaded = load(model, **load_options)  # type: ignore[arg-type]
    app.result()
    called = name or named_as(model, loaded)
    _serve(LocalEngine(loaded, called, engine_settings), settings, listener)


def _on_ray(said: dict[str, Any], listener: socket.socket) -> None:
    """Ray's proxy listens where the listener would."""
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise errors.SessionError("[serve] expected the package ray, found none; "
                                  "pip install 'moeflux[ray]'")  # fmt: skip
    from ..distributed.start import run

    host, port = listener.getsockname()[:2]
    listener.close()
    at = _shown(host, port)
    run(said, host, port, lambda: note(f"[{said['name']} at http://{at}; Ctrl-C ends]"))


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _serve(engine: LocalEngine, settings: Settings, listener: socket.socket) -> None:
    from ..serve.app import create_app
    from ..serve.run import run
    from ..serve.scrape import Counted

    app = Counted(create_app({engine.info.name: engine}, settings), engine.metrics)
    at = _shown(*listener.getsockname()[:2])
    ready = f"[{engine.info.name} at http://{at}; Ctrl-C ends]"
    if status := run(app, [engine], listener, settings.drain, lambda: note(ready)):
        sys.exit(status)


def require_extra() -> None:
    """Raises SessionError where a package that the server needs is missing."""
    import importlib.util

    for package in ("fastapi", "uvicorn", "llguidance", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise errors.SessionError(f"[serve] expected the package {package}, found none; "
                                      "pip install 'moeflux[serve]'")  # fmt: skip


def named_as(model: str | None, loaded: Model | None = None) -> str:
    """What clients call a model that a person named so."""
    if model is None:
        return "demo"
    return Path(model).name or (Path(model).resolve() if loaded is None else loaded.path).name


def running(text: str) -> int | None:
    """Answers at once. Raises SessionError for neither auto nor a number."""
    if text == "auto":
        return None
    if not text.isdecimal():
        raise errors.SessionError(f"[serve] max_running: expected auto or a number, found {text!r}")
    return int(text)


def seconds(name: str, text: str) -> float | None:
    """A bound of time; None where it is off. Raises SessionError for what is neither."""
    if text == "none":
        return None
    try:
        return float(text) or None
    except ValueError:
        raise errors.SessionError(f"[serve] {name}: expected a number of seconds, or none, found "
                                  f"{text!r}") from None  # fmt: skip


def _keys(keys: list[str] | None, file: Path | None) -> tuple[str, ...]:
    named = os.environ.get("MOEFLUX_API_KEY")  # typer would make two keys of one with a space
    lines = [] if file is None else [line.strip() for line in _read(file).splitlines()]
    if file is not None and not any(lines):
        raise errors.SessionError(f"[serve] {os.fspath(file)}: expected a key a line, found none")
    return (*(keys or filter(None, [named])), *filter(None, lines))


def template(name: str | None) -> str | None:
    """The source of a chat template; None leaves the model its own."""
    from ..serve.render import CHATML

    return CHATML if name == "chatml" else name and _read(Path(name))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.IoError(f"[serve] cannot read {os.fspath(file)}: {error}") from None
