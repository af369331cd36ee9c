"""A talk as messages, and the text that the chat template makes of it."""

import json
from dataclasses import dataclass, field
from typing import Any

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
TOOLS, END_TOOLS = "<tools>", "</tools>"
SPECIAL = (END_OF_TEXT, START, END)
TAGS = (CALL, END_CALL, TOOLS, END_TOOLS)

# What `Talk.segments` writes; tests compare both.
TEMPLATE = """\
{%- set first = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}
{%- if tools or first %}
{{- '<|im_start|>system\\n' + first }}
{%- if tools %}
{{- '\\n' if first else '' }}{{ '<tools>\\n' }}
{%- for tool in tools %}
{{- tool['function'] | tojson }}{{ '\\n' }}
{%- endfor %}
{{- '</tools>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] != 'system' %}
{{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') }}
{%- for call in message['tool_calls'] or [] %}
{{- '' if loop.first and not message['content'] else '\\n' }}
{{- '<tool_call>\\n{"name": ' + call['function']['name'] | tojson + ', "arguments": ' }}
{{- call['function']['arguments'] | tojson + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# The tool of the golden talks.
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@dataclass
class Talk:
    """A talk.

    Attributes:
        tools: functions as JSON schemas have them: name, description, parameters.
        system: the system message, or "".
        turns: (role, text, kind); of an answer, kind says what is measured: "call", "unseen"
            (a call of a tool that means what no trained tool does), "read" (a result told),
            "chat". The text of a call is its markup.
    """

    tools: list[dict[str, Any]] = field(default_factory=list)
    system: str = ""
    turns: list[tuple[str, str, str]] = field(default_factory=list)

    def user(self, text: str) -> None:
        self.turns.append(("user", text, ""))

    def answer(self, text: str, kind: str = "chat") -> None:
        self.turns.append(("assistant", text, kind))

    def call(self, calls: list[tuple[str, dict[str, Any]]], kind: str = "call") -> None:
        self.answer("\n".join(written(name, given) for name, given in calls), kind)

    def result(self, text: str) -> None:
        self.turns.append(("tool", text, ""))

    def segments(self) -> list[tuple[str, str]]:
        """(text, kind): kind is "" for what the model need not write."""
        parts: list[tuple[str, str]] = []
        if self.tools or self.system:
            head = START + "system\n" + self.system
            if self.tools:
                lines = "".join(dumps(tool) + "\n" for tool in self.tools)
                head += ("\n" if self.system else "") + f"{TOOLS}\n{lines}{END_TOOLS}"
            parts.append((f"{head}{END}\n", ""))
        for role, text, kind in self.turns:
            if kind:
                parts += [(f"{START}{role}\n", ""), (text + END, kind), ("\n", "")]
            else:
                parts.append((f"{START}{role}\n{text}{END}\n", ""))
        return parts


def dumps(value: Any) -> str:
    """JSON as chat templates write it."""
    return json.dumps(value, ensure_ascii=False)


def written(name: str, arguments: dict[str, Any]) -> str:
    """The markup of a call."""
    return f'{CALL}\n{{"name": {dumps(name)}, "arguments": {dumps(arguments)}}}\n{END_CALL}'
