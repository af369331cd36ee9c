#!/usr/bin/env python3
"""An agent in a page: a model on `moeflux serve` answers by looking into files of a folder.

moeflux serve MODEL                              # in another terminal; a model that calls tools
python examples/tool_loop.py FOLDER "Which file sets the version?"
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import openai

MOST = 8_000  # characters of a file that the model is given
TURNS = 20
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "list_files", "description": "Lists the files."}},
    {"type": "function", "function": {
        "name": "read_file", "description": "Gives the text of a file.", "parameters": NAME}},
]  # fmt: skip


def call(folder: Path, name: str, arguments: dict[str, Any]) -> str:
    """What a tool says. Models name files as they like: none outside the folder is opened."""
    if name == "list_files":
        return "\n".join(sorted(path.name for path in folder.iterdir() if path.is_file()))
    path = (folder / str(arguments.get("name"))).resolve()
    if name != "read_file" or path.parent != folder.resolve() or not path.is_file():
        return f"there is no {name} of {arguments}"
    return path.read_text(errors="replace")[:MOST]


def answer(url: str, folder: Path, question: str) -> str:
    """The model's last word, after the tools that it asked for."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    messages: list[Any] = [{"role": "user", "content": question}]
    for _ in range(TURNS):
        asked = client.chat.completions.create(model="any", messages=messages, tools=TOOLS)
        message = asked.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True))
        for one in message.tool_calls:
            arguments = json.loads(one.function.arguments)
            said = call(folder, one.function.name, arguments)
            print(f"[{one.function.name} {arguments}]", file=sys.stderr)
            messages.append({"role": "tool", "tool_call_id": one.id, "content": said})
    return f"no answer after {TURNS} turns"


if __name__ == "__main__":
    folder, question = sys.argv[1:3]
    print(answer("http://127.0.0.1:8080", Path(folder), question))
