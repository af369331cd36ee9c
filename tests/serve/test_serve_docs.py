"""docs/server.md and README's server as they stand: `moeflux serve` as a process, asked by them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serve.process import serving
from support.later import Later

openai = Later("openai")

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
PAGE, README = (ROOT / "docs/server.md").read_text(), (ROOT / "README.md").read_text()
BASE = "http://127.0.0.1:8080"


def run(command, url):
    done = subprocess.run(
        [part.replace(BASE, url) for part in command], text=True, capture_output=True, timeout=120,
        env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_blocks_of_the_page_run_as_written():
    blocks = [block for block in BLOCK.findall(PAGE) if block[0] in ("sh", "python")]
    (_, serve), (_, curl), *programs = blocks
    assert serve.startswith("moeflux serve ") and {kind for kind, _ in programs} == {"python"}
    with serving(serve) as url:
        found = json.loads(run(["sh", "-c", curl], url))
        assert f'"{found["choices"][0]["message"]["content"]}"' in PAGE
        hello, add, tool = programs
        assert run([sys.executable, "-c", hello[1]], url) == "Hello! How can I help you?"
        assert run([sys.executable, "-c", add[1]], url).startswith("17 + 25 = 42")
        told = "It is 18 degrees and cloudy in Paris."
        said = run([sys.executable, "-c", hello[1] + tool[1]], url)
        assert said == f"Hello! How can I help you?{told}\n" and f'"{told}"' in PAGE


def test_readmes_three_lines_end_in_an_answer():
    (block,) = [code for kind, code in BLOCK.findall(README)
                if kind == "text" and "moeflux serve" in code]  # fmt: skip
    install, serve, curl = block.splitlines()
    assert install.endswith("pip install './moeflux[serve]'")
    with serving(serve.removeprefix("env/bin/")) as url:
        found = json.loads(run(["sh", "-c", curl], url))
        said = found["choices"][0]["message"]["content"]
        assert f'"{said}"' in " ".join(README.split())


@pytest.fixture(scope="module")
def client():
    with serving("moeflux serve --chat-template chatml --memory 24MiB --context 1024") as url:
        yield openai.OpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
        )


CHAT = {"model": "any", "messages": [{"role": "user", "content": "import os"}], "max_tokens": 24}


def test_an_answer_is_the_same_streamed_and_whole_and_again(client):
    asked = CHAT | {"seed": 7, "temperature": 0.8}
    whole = client.chat.completions.create(**asked)
    again = client.chat.completions.create(**asked)
    assert whole.choices[0].message == again.choices[0].message
    assert again.usage.prompt_tokens_details.cached_tokens > 0
    chunks = client.chat.completions.create(**asked, stream=True)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == whole.choices[0].message.content


def test_a_schema_is_held(client):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}},
              "required": ["n", "ok"], "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    asked = CHAT | {"max_tokens": 200, "response_format": form, "temperature": 0}
    found = json.loads(client.chat.completions.create(**asked).choices[0].message.content)
    assert found.keys() == {"n", "ok"} and isinstance(found["n"], int)


def test_a_prompt_is_scored_as_the_engine_scores_it(client):
    import moeflux

    model = moeflux.load(memory="24MiB", context=1024)
    ids = model.tokenizer.encode("def main():\n    return 1")
    raw = client.completions.with_raw_response.create(
        model="any", prompt=ids, echo=True, logprobs=1, max_tokens=0, temperature=0
    )
    found = json.loads(raw.text)["choices"][0]["logprobs"]
    expected = model.session().score(ids)
    assert found["token_logprobs"][0] is None
    assert found["token_logprobs"][1:] == pytest.approx(expected[1:].tolist(), abs=1e-5)


def test_who_does_not_serve_imports_no_framework():
    program = (
        "import sys, moeflux, moeflux.cli;"
        "print({'fastapi', 'uvicorn', 'starlette', 'pydantic', 'llguidance'} & {*sys.modules})"
    )
    assert run([sys.executable, "-c", program], "").strip() == "set()"
