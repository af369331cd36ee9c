"""Renders one chat template, in a process of its own, so that a hostile one can be stopped.

Its time is limited by the parent (tokenizer.py), its memory and its output here.

Reads {"template", "messages", "variables", "max_chars", "max_bytes"} as JSON from standard input;
writes {"text"} or {"error"}. Knows nothing of moeflux and imports nothing of it.
"""

import json
import sys

sys.path.pop(0)  # this folder: its modules must not stand for others


def _limit_memory(max_bytes: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
    except (ImportError, ValueError, OSError):  # not on this system: the time limit remains
        pass


def render(request: dict) -> str:  # type: ignore[type-arg]
    """The text that the template makes; raises whatever goes wrong."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda x, **_: json.dumps(x, ensure_ascii=False)
    size, parts = 0, []
    stream = environment.from_string(request["template"]).generate(
        messages=request["messages"], add_generation_prompt=True, **request["variables"]
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
    _limit_memory(request["max_bytes"])
    try:
        answer = {"text": render(request)}
    except (Exception, MemoryError) as error:
        answer = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
