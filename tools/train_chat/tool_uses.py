"""A tool as one talk has it, and its uses: what is asked, called, given back and told."""

from dataclasses import replace
from typing import Any

from dialogue import dumps
from tool_results import KEY_KINDS, KEYS, plain_result
from toolbox import HELD, Parameter, Tool
from values import Values, json_type

UNSEEN = {tool.names for tool in HELD}
ERRORS = [
    "not found",
    "no such {}",
    "timeout",
    "access denied",
    "the service is down",
    "internal error",
    "unknown {}",
    "too many requests",
]


class Live:
    """A tool as one talk has it: its names chosen.

    Attributes:
        tool: what it does.
        name: of the function.
        keys: the schema's name of each parameter.
        schema: as a chat template is given it.
    """

    def __init__(self, tool: Tool, values: Values) -> None:
        rng = values.rng
        self.tool, self.values = tool, values
        self.name = rng.choice(tool.names)
        draw = rng.random()
        if draw < 0.15:
            self.name = f"{values.invented()}_{values.invented()}"
        elif draw < 0.2:
            self.name = values.plain()
        elif draw < 0.28:
            self.name = (
                f"{rng.choice(('my', 'api', 'home', 'app', 'mcp', values.invented()))}_{self.name}"
            )
        self.keys: dict[str, str] = {}
        self.odd = False  # names that say nothing: descriptions must
        for key, parameter in tool.parameters.items():
            free = [name for name in parameter.names if name not in self.keys.values()]
            self.keys[key] = rng.choice(free or [f"{key}_{len(self.keys)}"])
            draw = rng.random()
            if draw < 0.2:
                odd = values.invented()
                odd = odd if draw < 0.1 else f"{self.keys[key]}_{odd}"
                self.keys[key] = odd if odd not in self.keys.values() else self.keys[key]
                self.odd = True
        self.needed = {
            key
            for key in tool.parameters
            if tool.ask and all(f"{{{key}}}" in line for line in tool.ask)
        }
        if self.needed != set(tool.parameters) and rng.random() < 0.3:
            self._drop_optional()
        self.schema = self._schema()

    def _drop_optional(self) -> None:
        tool = self.tool
        lines = tuple(
            line
            for line in tool.ask
            if all(f"{{{key}}}" not in line or key in self.needed for key in tool.parameters)
        )
        kept = {key: value for key, value in tool.parameters.items() if key in self.needed}
        self.tool = replace(tool, parameters=kept, ask=lines)
        self.keys = {key: self.keys[key] for key in kept}

    def _schema(self) -> dict[str, Any]:
        rng = self.values.rng
        described = self.odd or rng.random() < 0.65
        properties, titled = {}, rng.random() < 0.07
        for key, parameter in self.tool.parameters.items():
            entry: dict[str, Any] = {"type": "string"}
            if parameter.kind.startswith("enum:"):
                entry["enum"] = parameter.kind[5:].split("|")
            else:
                entry["type"] = json_type(parameter.kind)
                if entry["type"] == "integer" and rng.random() < 0.1:
                    entry["type"] = "number"
            if described:
                entry["description"] = rng.choice(parameter.about)
                if rng.random() < 0.1:
                    entry = dict(reversed(entry.items()))
            if titled:
                entry = {"title": self.keys[key].replace("_", " ").title(), **entry}
            properties[self.keys[key]] = entry
        about = rng.choice(self.tool.about)
        if rng.random() < 0.2:
            about = about.rstrip(".") + "."
        elif rng.random() < 0.04 and "_" in self.name and self.name in self.tool.names:
            about = ""
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        if rng.random() < 0.9 and (properties or rng.random() < 0.3):
            parameters["required"] = [
                self.keys[k] for k in self.tool.parameters if k in self.needed
            ]
        if rng.random() < 0.1:
            parameters["additionalProperties"] = False
        return {"name": self.name, "description": about, "parameters": parameters}

    def draw(self) -> "Use":
        """A use: what is asked, and what must be called."""
        line = self.values.rng.choice(self.tool.ask)
        if self.values.rng.random() < 0.12:
            line = self.plainly()
        found = {
            key: self.value(parameter)
            for key, parameter in self.tool.parameters.items()
            if f"{{{key}}}" in line
        }
        return Use(self, line, found)

    def plainly(self) -> str:
        """A request in the words of the schema."""
        rng, keys = self.values.rng, self.keys
        if not keys:
            return rng.choice(
                (f"Use {self.name}.", f"Call {self.name}.", f"Use the {self.name} tool.")
            )
        used = [key for key in keys if key in self.needed or rng.random() < 0.5] or list(keys)
        listed = ", ".join(f"{keys[key]} {{{key}}}" for key in used)
        bare = ", ".join(f"{{{key}}}" for key in used)
        about = self.schema["description"].rstrip(".")
        return rng.choice(
            (
                f"Use {self.name} with {listed}.",
                f"Call {self.name} with {listed}.",
                f"Use the {self.name} tool for {bare}.",
                f"{self.name} {bare}",
                f"{about or self.name}: {bare}",
                f"{about or self.name} ({listed})",
            )
        )

    def value(self, parameter: Parameter) -> object:
        kind = parameter.kind.replace("enum:", "choice:")
        return self.values.draw(kind)


class Use:
    """One request for a tool."""

    def __init__(self, live: Live, line: str, values: dict[str, object]) -> None:
        self.live, self.line, self.given = live, line, values

    def text(self) -> str:
        return self.line.format(**self.given)

    def call(self) -> tuple[str, dict[str, object]]:
        """The name, and arguments in the schema's order."""
        given = {
            self.live.keys[key]: self.given[key]
            for key in self.live.tool.parameters
            if key in self.given
        }
        return self.live.name, given

    def again(self) -> "Use":
        """The same with one value changed."""
        key = self.live.values.rng.choice(list(self.given))
        fresh = {**self.given, key: self.live.value(self.live.tool.parameters[key])}
        return Use(self.live, self.line, fresh)

    def result(self) -> tuple[str, str]:
        """(what the tool gives back, what is said about it)."""
        values, rng, tool = self.live.values, self.live.values.rng, self.live.tool
        draw = rng.random()
        if draw < 0.07:
            error = rng.choice(ERRORS).format(rng.choice(list(self.live.keys.values()) or ["key"]))
            return dumps({"error": error}), f"That did not work: {error}."
        if draw < 0.17:
            text = values.sentence()
            return text, f"The tool says: {text}"
        if draw < 0.24:
            value = rng.choice((values.number(), values.amount(), values.word(), values.time()))
            text = str(value) if rng.random() < 0.5 else dumps({"result": value})
            return text, f"The result is {value}."
        if draw < 0.42 or not tool.tell or (values.held and tool.names in UNSEEN):
            return plain_result(values)
        got = {key: values.draw(kind.replace("/", "|")) for key, kind in tool.result.items()}
        shown = {key: str(v).lower() if isinstance(v, bool) else v for key, v in got.items()}
        told = tool.tell.format(**{**self.given, **shown})
        if draw < 0.6:  # more than is told
            more = rng.choice(
                [*(key for key in KEYS if key not in got), *(values.plain() for _ in range(20))]
            )
            more = more if more not in got else values.invented()
            items = [*got.items(), (more, values.draw(KEY_KINDS.get(more, "few")))]
            if draw < 0.53:
                echo = list(self.given)
                items = [
                    (self.live.keys[key], self.given[key])
                    for key in echo
                    if self.live.keys[key] not in got
                ] + items
            got = dict(items)
        return dumps(got), told
