"""Requests of agents, kept for tests/serve: their form, without their words.

RECORD=tests/serve/recorded make agent-test writes them anew.
"""

import json
import re
from pathlib import Path

AGENTS = {"/v1/messages": "claude", "/v1/responses": "codex", "/v1/chat/completions": "opencode"}
LONG, KEPT = 60, 24  # characters of a text that is cut, and what is left of it
PERSONAL = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{16,}\b|/(?:tmp|home|root|work)/[\w/.-]*"
)
HEADERS = re.compile(r"accept|anthropic-.*|content-type|session-id|x-session-.*|x-claude-.*")


def form(value):
    """A body whose long texts are cut, without ids and paths of the machine it comes from."""
    if isinstance(value, dict):
        return {key: form(item) for key, item in value.items()}
    if isinstance(value, list):
        return [form(item) for item in value]
    if not isinstance(value, str):
        return value
    text = PERSONAL.sub("some", value)
    return text if len(text) <= LONG else f"{text[:KEPT]}... ({len(text)} characters)"


class Recorded:
    """An ASGI app that keeps the requests of `app`, a list in a file an agent."""

    def __init__(self, app, folder):
        self.app, self.folder = app, Path(folder)
        self.found = {}

    async def __call__(self, scope, receive, send):
        name = AGENTS.get(scope.get("path"))
        if name is None:
            return await self.app(scope, receive, send)
        body = b""

        async def kept():
            nonlocal body
            message = await receive()
            if message["type"] == "http.request":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    self._keep(name, scope, body)
            return message

        return await self.app(scope, kept, send)

    def _keep(self, name, scope, body):
        headers = {key.decode(): form(value.decode()) for key, value in scope["headers"]}
        one = {
            "path": scope["path"],
            "headers": {key: headers[key] for key in sorted(headers) if HEADERS.fullmatch(key)},
            "body": form(json.loads(body)),
        }
        self.found.setdefault(name, []).append(one)
        text = json.dumps(self.found[name], ensure_ascii=False, separators=(",", ":"))
        (self.folder / f"{name}.json").write_text(text.replace('{"path"', '\n{"path"') + "\n")
