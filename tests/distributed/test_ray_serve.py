"""Two replicas on loopback: the answers are those of one process, also when a replica is killed."""

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest
from ray import serve

from moeflux.distributed.ray_serve import application

PORT = 8129
URL = f"http://127.0.0.1:{PORT}"
STREAMS = 16
# Either has room for 13 sessions: new answers take the half of it, those of a replica that dies the
# rest.
OPTIONS = {"model": "demo-chat", "context": "512", "memory": "64MiB", "threads": "1"}
GAP = 3.0  # seconds of a stream whose replica dies, beyond those to a first token


@pytest.fixture(scope="module", autouse=True)
def served():
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(application({**OPTIONS, "replicas": "2", "settings": {"drain": 20}}), name="app")
    yield
    serve.shutdown()


def post(path, body, **headers):
    headers = {"content-type": "application/json", **headers}
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=120)


def body(seed, **more):
    message = {"role": "user", "content": f"What is a list? Tell me {seed} things."}
    return {"messages": [message], "max_tokens": 300, "temperature": 0.9, "seed": seed,
            "ignore_eos": True, "stream": True, **more}  # fmt: skip


def stream(seed, deltas, **headers):
    """The text of a streamed answer; each piece is told with its time."""
    with post("/v1/chat/completions", body(seed), **headers) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                said = json.loads(line[6:])
                assert "error" not in said, said
                for choice in said["choices"]:
                    deltas.append((time.monotonic(), choice["delta"].get("content") or ""))
            if line.startswith(b"data: [DONE]"):
                deltas.append((time.monotonic(), None))
    return deltas


def text(deltas):
    assert deltas[-1][1] is None, "the stream did not end"
    return "".join(piece for _, piece in deltas[:-1])


def replicas():
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::ServeReplica:app:Replica"):
            found.append(int(folder.name))
    return found


def until(count, seconds=180):
    """Waits for so many replicas that take requests, and for the router to know them."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = serve.status().applications["app"].deployments["Replica"].replica_states
        if found == {"RUNNING": count}:
            time.sleep(1)
            return count
        time.sleep(0.2)
    return found


def many(kill=False):
    """The texts of many streams at once, the seconds to a first token of those that find room, and
    those of the longest gap; one replica may be killed.
    """
    found = [[] for _ in range(STREAMS)]
    threads = [threading.Thread(target=stream, args=(seed, deltas))
               for seed, deltas in enumerate(found)]  # fmt: skip
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    if kill:
        while sum(len(deltas) > 3 for deltas in found) < STREAMS // 2:
            time.sleep(0.05)
        os.kill(replicas()[0], signal.SIGKILL)
    for thread in threads:
        thread.join()
    firsts = sorted(next(when for when, piece in deltas if piece) for deltas in found)
    first = firsts[STREAMS // 4]  # the last ones wait for others to end
    gap = max(b[0] - a[0] for deltas in found for a, b in pairwise(deltas))
    return [text(deltas) for deltas in found], first - begin, gap


def test_streams_go_on_at_the_other_replica_when_theirs_is_killed():
    assert len(replicas()) == 2
    wanted, first, usual = many()
    assert len(set(wanted)) == STREAMS
    before = set(replicas())
    found, _, gap = many(kill=True)
    print(f"longest gap {gap:.1f} s, undisturbed {usual:.1f} s, to a first token {first:.1f} s")
    assert found == wanted  # none lost, none twice
    assert gap <= GAP + first + usual
    assert until(2) == 2
    assert len(set(replicas()) - before) == 1


def test_a_session_meets_one_replica():
    cached = []
    for _ in range(4):
        with post("/v1/chat/completions", body(3, stream=False, max_tokens=4),
                  **{"x-session-id": "a-session"}) as answer:  # fmt: skip
            usage = json.loads(answer.read())["usage"]
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
    assert all(cached[1:]), cached


def test_grammars_and_errors_come_through():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    asked = body(1, stream=False, response_format=form, ignore_eos=False, max_tokens=60)
    with post("/v1/chat/completions", asked) as answer:
        found = json.loads(answer.read())["choices"][0]
    if found["finish_reason"] == "stop":
        assert isinstance(json.loads(found["message"]["content"])["n"], int)
    assert found["message"]["content"].lstrip().startswith("{")
    for wrong, status in (({"messages": []}, 400), (body(1) | {"max_tokens": -7}, 400)):
        with pytest.raises(urllib.error.HTTPError) as error:
            post("/v1/chat/completions", wrong)
        assert error.value.code == status
        error.value.close()


def test_an_answer_that_runs_is_finished_when_replicas_are_made_fewer():
    wanted = text(stream(5, []))
    deltas = []
    thread = threading.Thread(target=stream, args=(5, deltas))
    thread.start()
    while len(deltas) < 3:
        time.sleep(0.05)
    serve.run(application({**OPTIONS, "replicas": "1", "settings": {"drain": 20}}), name="app")
    thread.join()
    assert text(deltas) == wanted
    assert until(1) == 1


def test_replicas_follow_the_load_and_no_answer_is_lost_by_that():
    """From one to two and back, while streams go on."""
    options = {**OPTIONS, "replicas": "1", "most": "2", "upscale_delay": "1",
               "downscale_delay": "2",
               "engine": {"max_running": 4}, "settings": {"drain": 60}}  # fmt: skip
    serve.run(application(options), name="app")
    assert until(1) == 1
    wanted, _, _ = many()
    assert until(2) == 2  # while 16 were asked for, or since
    found, _, _ = many()
    assert found == wanted
    assert until(1) == 1
    assert text(stream(0, [])) == wanted[0]
