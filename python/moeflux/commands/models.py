"""`moeflux models`: what is on this disk; `get` and `remove`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ..errors import FormatError, IoError
from ..terminal import escape_controls, note
from . import options

if TYPE_CHECKING:
    from .disk import Found

app = typer.Typer(rich_markup_mode=None)

# What a folder of ours may hold: anything else in it is somebody's.
OURS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*", "*.part")
DAY = 24 * 3600.0


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: options.AsJson = False) -> None:
    """List the models on this disk, fetch one, remove one.

    They are those of the hub's cache (HF_HOME), and folders that pack, convert and synth have
    written. The last use is when the disk says that a file was read.
    """
    if context.invoked_subcommand is not None:
        return
    from . import disk

    every = disk.models()
    found = [model for model in every if model.kind != disk.OTHER]
    others = [model.nbytes for model in every if model.kind == disk.OTHER]
    if as_json:
        said = {"models": [_facts(model) for model in found],
                "others": {"count": len(others), "bytes": sum(others)}}  # fmt: skip
        print(json.dumps(said, indent=2))
        return
    _print(found)
    if others:
        note(f"[{len(others)} more in the hub's cache, {_gigabytes(sum(others))}, are no models "
             "that moeflux runs]")  # fmt: skip


def _facts(model: Found) -> dict[str, Any]:
    return {
        "name": escape_controls(model.name), "kind": model.kind, "bytes": model.nbytes,
        "family": model.family, "format": model.format, "revision": model.revision,
        "path": escape_controls(str(model.path)), "last_used": model.used,
        "missing": model.missing and escape_controls(model.missing),
    }  # fmt: skip


def _print(found: list[Found]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from . import disk

    table = Table("model", "size", "kind", "family", "format", "last use")
    for model in found:
        cells = (model.name, _gigabytes(model.nbytes), model.kind, model.family or "?",
                 model.format or "?", _ago(model.used))  # fmt: skip
        table.add_row(*(escape(escape_controls(cell)) for cell in cells))
    Console().print(table)
    for model in found:
        if model.missing == disk.INCOMPLETE:
            note(escape_controls(f"[{model.name} is incomplete: moeflux models get {model.name} "
                                 "fetches the rest]"))  # fmt: skip
        elif model.missing is not None:
            note(escape_controls(f"[{model.name} does not run: {model.missing}]"))


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:,.1f} MB"


def _ago(when: float | None) -> str:
    if when is None:
        return ""
    days = int((time.time() - when) // DAY)
    if days <= 1:
        return "today" if days < 1 else "yesterday"
    return f"{days} days ago" if days < 60 else f"{days // 30} months ago"


@app.command()
def get(
    model: Annotated[str, typer.Argument(help="Hub id, owner/name or owner/name:Q4_K_M.")],
    revision: options.Revision = None,
    mirror: Annotated[
        Optional[str],
        typer.Option(help="Ask this address in place of the hub (or HF_ENDPOINT); no login is "
                     "sent to it."),
    ] = None,
    verbose: options.Verbose = False,
) -> None:  # fmt: skip
    """Fetch a model of the hub, or go on with a download that broke off."""
    from . import disk

    if mirror is not None:  # huggingface_hub reads these when it is imported
        os.environ["HF_ENDPOINT"] = disk.refuse_mirror(mirror)
        os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    from .. import hub

    hub.require_hub_id(model)
    try:
        found = hub.resolve(model, revision)
    except KeyboardInterrupt:
        print("[interrupted: the same command goes on from here]", file=sys.stderr)
        raise
    print(escape_controls(str(found)))


@app.command()
def remove(
    model: Annotated[str, typer.Argument(help="Hub id, or a folder that moeflux has written.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    verbose: options.Verbose = False,
) -> None:
    """Remove a model from this disk. What moeflux has not written or fetched is refused."""
    from .. import hub

    if model in hub.SHIPPED and not Path(model).is_dir():
        raise IoError(f"[models] {model} is in the package: it goes with moeflux")
    folder = Path(model).expanduser()
    if folder.is_dir():
        _remove_folder(folder, yes)
    else:
        _remove_repo(model, yes)


def _asked(what: str, nbytes: int, yes: bool) -> None:
    """Ends the command unless a person wants it."""
    question = escape_controls(f"Remove {what}, {_gigabytes(nbytes)}? It cannot be undone.")
    if yes:
        return
    if not sys.stdin.isatty():
        raise IoError(f"[models] expected --yes, for nobody can be asked ({what})")
    typer.confirm(question, abort=True, err=True)


def _remove_repo(name: str, yes: bool) -> None:
    from .. import hub
    from . import disk

    repo = hub.require_hub_id(name).repo
    mine = [model for model in disk.cached() if model.name in (name, repo) or
            model.name.startswith(f"{repo}:")]  # fmt: skip
    if not mine:
        raise IoError(f"[models] expected a model of the hub's cache, or a folder that moeflux has "
                      f"written, found none of this name ({name})")  # fmt: skip
    if any(model.kind == disk.OTHER for model in mine):
        raise FormatError(f"[models] expected a model that moeflux runs, found something else in "
                          f"the hub's cache: `hf cache rm` removes it ({name})")  # fmt: skip
    if name != repo:
        raise FormatError(f"[models] expected a whole repository, found one model of it: {repo} "
                          f"removes all ({name})")  # fmt: skip
    _asked(repo, sum(model.nbytes for model in mine), yes)
    found = disk.of_repo(repo)
    if found is None or not found.revisions:  # a download that broke off at once
        for path in {model.path for model in mine}:
            shutil.rmtree(path)
    else:
        info = disk.scan()
        assert info is not None
        info.delete_revisions(*(revision.commit_hash for revision in found.revisions)).execute()
    note(f"[removed {escape_controls(repo)}]")


def _remove_folder(folder: Path, yes: bool) -> None:
    from ..durable import alone
    from . import disk, folders

    path = Path(os.path.realpath(folder))
    if folders.claimed(path) is None:
        raise FormatError(f"[models] expected a folder that moeflux pack, convert or synth has "
                          f"written, found another ({path})")  # fmt: skip
    for entry in path.iterdir():
        if entry.is_symlink() or not entry.is_file() or not any(map(entry.match, OURS)):
            raise FormatError(f"[models] expected nothing but a model's files in the folder, found "
                              f"{entry.name} ({path})")  # fmt: skip
    _asked(str(path), disk.written(path).nbytes, yes)
    with alone(path, "models"):
        shutil.rmtree(path)
    note(f"[removed {escape_controls(str(path))}]")
