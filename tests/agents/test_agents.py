"""Real agents, headless, each through a tool round trip with a scripted model by `moeflux launch`.

AGENTS names the folder with their programs (npm i @openai/codex @anthropic-ai/claude-code
opencode-ai). They run in a network namespace that has only loopback, with a home of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(os.environ.get("AGENTS", "node_modules")).resolve() / ".bin"
PORT = 8199  # in a namespace of its own
BASE = f"http://127.0.0.1:{PORT}"
ASKED = "Run the tool"
ARGUMENTS = {
    "claude": ["-p", ASKED, "--allowedTools", "Bash(echo:*)"],
    "codex": ["exec", "--skip-git-repo-check", "-s", "read-only", ASKED],
    "opencode": ["run", ASKED],
}
APIS = {"claude": "/v1/messages", "codex": "/v1/responses", "opencode": "/v1/chat/completions"}


@pytest.mark.parametrize("agent", ARGUMENTS)
def test_an_agent_runs_a_tool_and_reads_its_result(agent, tmp_path):
    (tmp_path / "opencode.json").write_text(json.dumps({"permission": {"bash": "allow"}}))
    script = (
        f"ip link set lo up; {sys.executable} {ROOT}/tests/agents/server.py {PORT} >server.log & "
        f"for i in $(seq 100); do curl -s {BASE}/health >health && break; sleep 0.2; done; "
        f'timeout -k 5 120 "$@" </dev/null >said 2>&1; status=$?; kill $!; exit $status'
    )
    paths = [f"{ROOT}/tests", os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "HOME": str(tmp_path), "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
        "ANTHROPIC_API_KEY": "a cloud's", "OPENAI_API_KEY": "a cloud's",
    }  # fmt: skip
    launch = [sys.executable, "-m", "moeflux.cli", "launch", agent, "--url", BASE, "--"]
    with (tmp_path / "shell.log").open("w") as log:
        done = subprocess.run(
            ["unshare", "--net", "bash", "-c", script, "run", *launch, *ARGUMENTS[agent]],
            cwd=tmp_path, env=environment, stdout=log, stderr=log, timeout=180, check=False,
        )  # fmt: skip
    said = (tmp_path / "said").read_text()
    assert done.returncode == 0, said
    assert "The tool said token-42." in said
    lines = (tmp_path / "server.log").read_text().splitlines()
    asked = [json.loads(line) for line in lines if line.startswith("{")]
    assert {line["status"] for line in asked} == {200}
    assert sum(line["path"] == APIS[agent] for line in asked) >= 2
    shared = [line["shared"] for line in asked if "shared" in line]
    assert shared[-1] == 1.0, "the second prompt does not begin with the first"
