"""What only a socket shows: resets, endless bodies, slow readers. uvicorn on loopback."""

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time

import pytest
import uvicorn

from serve.asking import USER, app_of
from serve.scripted import ScriptedEngine


@contextlib.contextmanager
def serving(engine, **settings):
    """The port of a server that runs in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app_of(engine, **settings), log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
        listener.close()


def request(body, path="/v1/chat/completions", version="1.1", host="Host: 127.0.0.1\r\n", more=""):
    data = json.dumps(body).encode() if not isinstance(body, bytes) else body
    head = (
        f"POST {path} HTTP/{version}\r\n{host}Content-Type: application/json\r\n{more}"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def wait_for(seen, seconds=20):
    end = time.monotonic() + seconds
    while not seen() and time.monotonic() < end:
        time.sleep(0.01)
    assert seen()


def read_until(client, text):
    data = b""
    while text not in data:
        more = client.recv(4096)
        assert more, data
        data += more
    return data


def read_all(client):
    return b"".join(iter(lambda: client.recv(4096), b""))


STREAM = {"messages": [USER], "stream": True}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("after", [b"200 OK", b'"content":"H"'])
def test_a_connection_that_ends_cancels_its_job(reset, after):
    engine = ScriptedEngine({"": "Hello " * 2000}, pause=0.005)
    with serving(engine) as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(request(STREAM))
        read_until(client, after)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        wait_for(lambda: engine.cancelled and not engine.running)


def test_a_whole_answer_is_cancelled_too():
    engine = ScriptedEngine({"": "Hello " * 2000}, pause=0.005)
    with serving(engine) as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(request({"messages": [USER]}))
        wait_for(lambda: engine.running)
        client.close()
        wait_for(lambda: engine.cancelled and not engine.running)


def test_a_reader_that_never_reads_is_given_up_and_harms_nobody():
    engine = ScriptedEngine({"": "x" * 1_000_000, "short": "Hello."})
    with serving(engine, write_timeout=0.3) as port:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(request(STREAM))
        wait_for(lambda: engine.running)
        with socket.create_connection(("127.0.0.1", port)) as other:
            other.sendall(request({"messages": [{"role": "user", "content": "short"}]}))
            assert b"Hello." in read_until(other, b"}}")
        wait_for(lambda: engine.cancelled and not engine.running)
        client.close()


def test_a_body_without_end_is_refused_and_the_connection_closed():
    engine = ScriptedEngine()
    with serving(engine, max_body=5000) as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            for _ in range(100):
                client.sendall(b"400\r\n" + b" " * 0x400 + b"\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b" 413 " in read_all(client)
        client.close()
        with socket.create_connection(("127.0.0.1", port)) as long:
            long.sendall(request(b" " * 6000))
            answer = read_all(long)
        assert b" 413 " in answer


def test_a_silent_body_is_given_up():
    with serving(ScriptedEngine(), body_timeout=0.2) as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(request({"messages": [USER]})[:-5])
        assert b" 408 " in read_all(client)
        client.close()


def test_requests_in_a_row_on_one_connection():
    with serving(ScriptedEngine()) as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(request({"messages": [USER]}) * 2)
        data = read_until(client, b"timings")
        while data.count(b'"timings"') < 2:
            data += client.recv(4096)
        assert data.count(b" 200 OK") == 2
        client.close()


def test_a_request_without_host_is_refused():
    with serving(ScriptedEngine()) as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(request({"messages": [USER]}, version="1.0", host=""))
        assert b" 403 " in read_all(client)
        client.close()
