"""A scripted model for agents: it calls their shell once, then repeats what that said.

python tests/agents/server.py PORT; writes a line of JSON a request, with the share of the last
prompt that this one begins with.
"""

import json
import os
import sys

import uvicorn
from recording import Recorded

from moeflux.serve.app import create_app
from moeflux.serve.settings import Settings
from serve.scripted import ScriptedEngine

COMMAND = "echo token-$((40+2))"
SHELLS = {  # the tool that runs a command, by agent, and its arguments
    "Bash": {"command": COMMAND, "description": "say"},
    "exec_command": {"cmd": COMMAND},
    "shell_command": {"command": COMMAND},
    "bash": {"command": COMMAND, "description": "say"},
}


class AgentsModel(ScriptedEngine):
    """Thinks, calls the shell, and then answers."""

    def _answer(self, job):
        text = self.tokenizer.decode(list(job.ids), skip_special_tokens=False)
        shell = next((name for name in SHELLS if f'"name": "{name}"' in text), None)
        if "<tool_response>" in text and "token-42" in text.rsplit("<tool_response>", 1)[1]:
            said = "The tool said token-42."
        elif shell is None:
            said = "A title"
        else:
            call = json.dumps({"name": shell, "arguments": SHELLS[shell]})
            said = f"<think>\nHm.\n</think>\n\nSure.\n<tool_call>\n{call}\n</tool_call>"
        if shell and len(self.jobs) > 1:
            before = list(self.jobs[-2].ids)
            same = sum(a == b for a, b in zip(before, job.ids, strict=False))
            print(json.dumps({"path": "", "status": 200, "shared": same / len(before)}), flush=True)
        return self.tokenizer.encode(said, add_special_tokens=False)


class Told:
    """Says what was asked for."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def told(message):
            if message["type"] == "http.response.start":
                line = {"path": scope["path"], "status": message["status"]}
                print(json.dumps(line), flush=True)
            await send(message)

        await self.app(scope, receive, told)


if __name__ == "__main__":
    port = int(sys.argv[1])
    app = create_app({"demo": AgentsModel(name="demo", context=1 << 20)}, Settings(port=port))
    if folder := os.environ.get("RECORD"):
        app = Recorded(app, folder)
    uvicorn.run(Told(app), host="127.0.0.1", port=port, log_level="warning")
