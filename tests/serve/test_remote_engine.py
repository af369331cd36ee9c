"""Streams whose replica is lost, with handles in place of Ray's: what is sent again."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from moeflux.distributed import remote
from moeflux.distributed.remote import About, RayEngine, Source, affinity
from moeflux.serve.engine import Delta, EngineError, Health, Job, ModelInfo, Sampling

INFO = ModelInfo("m", 64, 100, 10, 10, "print")
ABOUT = About(INFO, Health(), {}, True)
TOKENS = list(range(10, 20))


class Lost(Exception):
    pass


class Stream:
    def __init__(self, deltas):
        self._deltas = deltas
        self.cancelled = False

    def __aiter__(self):
        return self._deltas

    def cancel(self):
        self.cancelled = True


class Handle:
    """A replica that chooses TOKENS, and is lost after so many tokens of each try."""

    def __init__(self, lives):
        self._lives = iter(lives)
        self.jobs, self.keys, self.streams = [], [], []

    def options(self, *, stream, session_id):
        assert stream
        self.keys.append(session_id)
        return self

    @property
    def submit(self):
        return self

    def remote(self, job, fingerprint):
        assert fingerprint == "print"
        self.jobs.append(job)
        self.streams.append(Stream(self._run(job, next(self._lives))))
        return self.streams[-1]

    async def _run(self, job, life):
        if life is None:
            raise Lost
        yield Delta()
        for count, token in enumerate(TOKENS[len(job.done) :]):
            if count == life:
                raise Lost
            yield Delta(tokens=(token,), text=chr(token))
        if life == len(TOKENS):
            raise Lost
        yield Delta(finish="stop")


def run(lives, about=ABOUT, job=None):
    handle = Handle(lives)
    engine = RayEngine(handle, about, None, (Lost,))

    async def collect():
        return [delta async for delta in engine.submit(job or Job(ids=[1, 2, 3]))]

    return asyncio.run(collect()), handle


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.0)


@pytest.mark.parametrize("lives", [[99], [0, 99], [3, 99], [1, 1, 99], [None, 4, 2, 99], [10, 99]])
def test_a_stream_has_every_token_once_however_often_its_replica_is_lost(lives):
    deltas, handle = run(lives)
    assert [token for delta in deltas for token in delta.tokens] == TOKENS
    assert [delta for delta in deltas if not delta.tokens] == [Delta(), Delta(finish="stop")]
    told = np.cumsum([0, *(life or 0 for life in lives[:-1])])
    assert [list(job.done) for job in handle.jobs] == [TOKENS[:n] for n in told]
    heard = np.cumsum([life is not None for life in lives]) > 0  # by the client, before each try
    assert [job.lost for job in handle.jobs] == [False, *heard[:-1]]
    assert len(set(handle.keys)) == 1 and all(stream.cancelled for stream in handle.streams)


@pytest.mark.parametrize(
    ("lives", "about", "job"),
    [([1, 1, 1, 1, 99], ABOUT, None), ([2, 99], replace(ABOUT, is_exact=False), None),
     ([2, 99], ABOUT, Job(ids=[1], n=2))],
)  # fmt: skip
def test_what_cannot_go_on_ends_with_an_error(lives, about, job):
    with pytest.raises(EngineError, match=r"replica of this answer was lost \(Lost\)"):
        run(lives, about, job)


def test_before_its_first_token_an_answer_of_a_device_is_asked_elsewhere():
    deltas, _ = run([None, 99], replace(ABOUT, is_exact=False))
    assert [token for delta in deltas for token in delta.tokens] == TOKENS


def test_other_errors_are_the_requests():
    class Broken(Handle):
        async def _run(self, job, life):
            raise ValueError("no such token")
            yield

    engine = RayEngine(Broken([1]), ABOUT, None, (Lost,))

    async def collect():
        return [delta async for delta in engine.submit(Job(ids=[1]))]

    with pytest.raises(ValueError, match="no such token"):
        asyncio.run(collect())


def test_a_session_chooses_a_replica_and_else_how_the_prompt_begins():
    long = list(range(1000))
    assert affinity(Job(ids=[1], client="key/talk")) == affinity(Job(ids=[2], client="key/talk"))
    assert affinity(Job(ids=[1], client="key/")) != affinity(Job(ids=[2], client="key/"))
    assert affinity(Job(ids=long)) == affinity(Job(ids=[*long, 7]))
    assert affinity(Job(ids=long, marks=[20])) == affinity(Job(ids=[*long[:20], 7], marks=[20]))


def test_a_grammar_travels_as_its_source():
    asked = []

    class Compiles:
        compile = property(lambda self: self)

        async def remote(self, *said):
            asked.append(said)

    engine = RayEngine(Compiles(), ABOUT, None, (Lost,))
    source = asyncio.run(engine.compile("regex", "a+"))
    assert source == Source("regex", "a+", True) and asked == [("regex", "a+", True)]
    with pytest.raises(TypeError):
        source.start()
    assert Job(ids=[1], sampling=Sampling(), constraint=source).constraint == source
