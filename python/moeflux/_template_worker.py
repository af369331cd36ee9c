"""Renders one chat template, in a process of its own, so that a hostile one can be stopped.

Its memory, its processor time and its output are limited here, its time by the clock by the parent
(tokenizer.py).

Reads {"template", "messages", "variables", "max_chars", "max_bytes", "max_seconds"} as JSON from
standard input;
writes {"text"} or {"error"}. Knows nothing of moeflux and imports nothing of it.
"""

import json
import sys
from datetime import datetime
from typing import Any

sys.path.pop(0)  # this folder: its modules must not stand for others


def _limit(name: str, most: int) -> None:
    """Sets one of the system's limits of a process, RLIMIT_`name`; the hard one comes behind it."""
    try:
        import resource

        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most + 1))
    except (ImportError, ValueError, OSError):  # not on this system: the parent's clock remains
        pass


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


def render(request: dict[str, Any]) -> str:
    """The text that the template makes; raises whatever goes wrong."""
    size, parts = 0, []
    stream = (
        _environment()
        .from_string(request["template"])
        .generate(
            **request["variables"],
            messages=[_message(message) for message in request["messages"]],
            add_generation_prompt=True,
            tools=None,
            documents=None,
        )
    )
    for part in stream:
        size += len(part)
        if size > request["max_chars"]:
            raise ValueError(f"it writes over {request['max_chars']} characters")
        parts.append(part)
    return "".join(parts)


def main() -> None:
    """One request, one answer."""
    request = json.load(sys.stdin)
    _limit("AS", request["max_bytes"])
    _limit("CPU", request["max_seconds"])
    try:
        answer = {"text": render(request)}
    except (Exception, MemoryError) as error:
        answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
