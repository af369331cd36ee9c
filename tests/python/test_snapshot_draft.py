"""A snapshot that is being made of bytes: what its native object refuses."""

import threading

import pytest

import moeflux
from moeflux import _core
from oracle import build


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = build(tmp_path_factory.mktemp("m") / "m", family="qwen3_moe", form="mlx-q4")
    return moeflux.load(folder, memory="64MB", context=512, threads=1)


def test_a_draft_is_of_a_model():
    with pytest.raises(TypeError, match="NativeDraft"):
        _core.NativeDraft(None, 0)


def test_a_draft_is_done_once(model):
    draft = _core.NativeDraft(model._native, 3)
    assert draft.done().position == 3
    for call in (draft.done, lambda: draft.write(0, b"")):
        with pytest.raises(moeflux.SessionError, match="done"):
            call()


def test_a_draft_that_is_written_on_another_thread_is_not_done(model):
    """Either the write comes first or the end: never memory that has gone."""
    piece = bytes(1 << 12)
    for _ in range(100):
        draft = _core.NativeDraft(model._native, 500)

        def write(draft=draft):
            try:
                for _ in range(50):
                    draft.write(0, piece)
            except moeflux.SessionError as error:
                assert "done" in str(error)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            draft.done()
        except moeflux.SessionError as error:
            assert "being written" in str(error)
        thread.join()
