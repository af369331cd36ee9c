"""What an override of the routing had a part in is no file's: it would pass for the model's own."""

import pytest

import moeflux
from moeflux import SessionError, Snapshot
from oracle import build

OVERRIDE = moeflux.Routing(top_k=1)


@pytest.fixture(scope="module", params=["qwen3_moe", "qwen3_next"])
def model(request, tmp_path_factory):
    folder = build(tmp_path_factory.mktemp("routing") / "m", family=request.param, form="mlx-q4")
    return moeflux.load(folder, memory="64MiB", context=64)


def of_a_session(model):
    session = model.session(routing=OVERRIDE)
    session.step([1, 2, 3])
    return session


def of_a_step(model):
    session = model.session()
    session.step([1, 2], routing=OVERRIDE)
    session.step([3])
    return session


def of_a_fork(model):
    return of_a_step(model).fork()


def of_a_snapshot(model):
    session = model.session()
    session.restore(of_a_step(model).save())
    session.step([4])
    return session


def over_a_snapshot(model):
    own = model.session()
    own.step([1, 2])
    session = model.session(routing=OVERRIDE)
    session.restore(own.save())
    session.step([3])
    return session


@pytest.mark.parametrize(
    "overridden", [of_a_session, of_a_step, of_a_fork, of_a_snapshot, over_a_snapshot]
)
def test_a_state_of_an_override_is_not_written(tmp_path, model, overridden):
    session = overridden(model)
    with pytest.raises(SessionError, match=r"own routing, found one of the override 'top_k=1'"):
        session.save().write(tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_a_session_that_has_forgotten_an_override_is_written(tmp_path, model):
    own, expected = model.session(), model.session()
    own.step([1, 2])
    base = own.save()
    expected.step([1, 2, 3])
    back, anew = of_a_step(model), of_a_step(model)
    back.restore(base)
    back.step([3])
    anew.reset()
    anew.save().write(tmp_path / "s")
    anew.step([1, 2, 3])
    nothing = model.session(routing=moeflux.Routing())  # overrides nothing
    nothing.step([1, 2, 3])
    logits = expected.step([4])
    for session in (back, anew, nothing):
        session.save().write(tmp_path / "s")
        again = model.session()
        again.restore(Snapshot.read(model, tmp_path / "s"))
        assert (again.step([4]) == logits).all()
