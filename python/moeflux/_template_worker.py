"""Renders one chat template, again and again, in a process of its own that can be stopped.

Memory, processor time and output are limited here, time by the clock by the parent (renderer.py).

Reads lines of JSON from standard input: {"template", "max_chars", "max_bytes", "max_seconds"}
first, then {"messages", "tools", "documents", "add_generation_prompt", "variables"} a render.
Answers each of these with a line: {"text"}, or {"error", "ends"}. After an error that is not the
template's own word the process may be short of memory, so it ends.
Knows nothing of moeflux and imports nothing of it.
"""

import json
import sys

if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules must not stand for others

import signal
from datetime import datetime
from typing import Any


def _limit(name: str, soft: int, hard: int | None = None) -> None:
    """Sets one of the system's limits of a process, RLIMIT_`name`; the hard one stays if None."""
    try:
        import resource

        kind = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1] if hard is None else hard))
    except (ImportError, ValueError, OSError):  # not on this system: the parent's clock remains
        pass


def _limit_time(seconds: int) -> None:
    """Allows so much processor time from now on."""
    import time

    _limit("CPU", int(time.process_time()) + 1 + seconds)


REASONING = ("reasoning_content", "thinking", "reasoning")  # names under which messages bring it


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message as templates expect it: no nulls, reasoning under the names that they read."""
    kept = {key: value for key, value in message.items() if value is not None}
    for key in REASONING:
        if key in kept:
            return {"thinking": kept[key], **kept, "reasoning_content": kept[key]}
    return kept


def _environment() -> Any:
    """jinja2's immutable sandbox with what transformers gives to templates."""
    import jinja2
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what the model wrote, for training; here it is only a scope."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)  # fmt: skip

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    environment.filters["tojson"] = tojson
    return environment


class Renderer:
    """One template, compiled at its first use."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._environment = _environment()
        self._source, self._max_chars = setup["template"], setup["max_chars"]
        self._template: Any = None

    def render(self, request: dict[str, Any]) -> str:
        """The text that the template makes; raises whatever goes wrong."""
        messages = [_message(message) for message in request["messages"]]
        if self._template is None:
            self._template = self._environment.from_string(self._source)
        given = {key: request[key] for key in ("tools", "documents", "add_generation_prompt")}
        size, parts = 0, []
        for part in self._template.generate(**request["variables"], **given, messages=messages):
            size += len(part)
            if size > self._max_chars:
                raise ValueError(f"it writes over {self._max_chars} characters")
            parts.append(part)
        return "".join(parts)


def main() -> None:
    """Answers until standard input ends, or an error may have left this process in disorder."""
    from jinja2 import TemplateError, TemplateSyntaxError

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the parent's
    setup = json.loads(sys.stdin.readline())
    renderer = Renderer(setup)
    _limit("AS", setup["max_bytes"], setup["max_bytes"])
    answer: dict[str, Any] = {}
    while not answer.get("ends") and (line := sys.stdin.readline()):
        _limit_time(setup["max_seconds"])
        try:
            answer = {"text": renderer.render(json.loads(line))}
        except (Exception, MemoryError) as error:
            own = isinstance(error, TemplateError) and not isinstance(error, TemplateSyntaxError)
            what = f"{type(error).__name__}: {str(error)[:300]}"
            answer = {"error": what, "ends": not own}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
