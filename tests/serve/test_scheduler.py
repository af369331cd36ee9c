"""The scheduler as a table: state and costs in, a plan out."""

from dataclasses import replace

import pytest

from moeflux.serve.costs import Costs
from moeflux.serve.scheduler import Limits, Running, State, Waiting, plan

LIMITS = Limits(rows=100, max_running=4)


def costs(debt=0.0, decode=None, **used):
    found = Costs()
    for client, seconds in used.items():
        found.observe(0.0, seconds, {client: 1}, 0, 0)
    found._decode = decode or {}
    found.debt = debt
    return found


FEEDS = {
    "all that decode": ([Running(1), Running(2)], 0.0, {1: 1, 2: 1}),
    "a prompt alone fills the pass": ([Running(1, pending=500)], 9.0, {1: 100}),
    "no prompt beside answers while it owes them time": (
        [Running(1), Running(2, pending=500)], 0.1, {1: 1},
    ),
    "a prompt beside answers when it owes nothing": (
        [Running(1), Running(2, pending=500)], 0.0, {1: 1, 2: 99},
    ),
    "a short rest joins whatever is owed": (
        [Running(1), Running(2, pending=64), Running(3, pending=65)], 0.1, {1: 1, 2: 64},
    ),
    "a piece ends at the checkpoint, and others take the rows": (
        [Running(1, pending=300, most=30), Running(2, pending=400)], 0.0, {1: 30, 2: 70},
    ),
    "the shorter prompt goes first": (
        [Running(1, pending=300), Running(2, pending=90)], 0.0, {1: 10, 2: 90},
    ),
    "the client that had less goes first": (
        [Running(1, "idle", 300), Running(2, "busy", 90)], 0.0, {1: 100},
    ),
    "more answers than rows leave a prompt a little": (
        [*(Running(i) for i in range(120)), Running(120, pending=500)], 0.0,
        {**{i: 1 for i in range(120)}, 120: 64},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FEEDS)
def test_the_pass_feeds(case):
    running, debt, expected = FEEDS[case]
    found = plan(State(running=tuple(running)), costs(debt, busy=5.0), LIMITS)
    assert dict(found.feed) == expected
    assert (found.admit, found.preempt, found.evict) == ((), (), 0)


def client(name, *keys, **more):
    return [Waiting(key, name, **more) for key in keys]


ADMISSIONS = {
    "first come, first served among equals": (client("a", 3, 1, 2), [], [1, 2, 3]),
    "no more than there are places": (client("a", *range(9)), [], [0, 1, 2, 3]),
    "a place each before anyone's second": (
        client("a", 0, 1, 2, 3) + client("b", 4, 5), [], [0, 4, 1, 5],
    ),
    "whoever runs already waits for others": (
        client("a", 1) + client("b", 2), [Running(0, "a")], [2, 1],
    ),
    "the client that had less first": (client("busy", 1) + client("idle", 2), [], [2, 1]),
    "the shorter one first": ([Waiting(1, left=50), Waiting(2, left=5)], [], [2, 1]),
    "whoever waited long goes before short ones": (
        [Waiting(1, left=50, waited=31.0), Waiting(2, left=5)], [], [1, 2],
    ),
    "of those that waited long the first": (
        [Waiting(2, left=1, waited=40.0), Waiting(1, left=9, waited=31.0)], [], [1, 2],
    ),
    "an answer that has begun goes before whoever waited long": (
        [Waiting(1, waited=99.0), Waiting(3, left=900, goes_on=True), Waiting(2)], [], [3, 1, 2],
    ),
    "of those that have begun the first": (
        [Waiting(5, left=1, goes_on=True), Waiting(4, left=9, goes_on=True)], [], [4, 5],
    ),
    "choices wait for the prompt": ([Waiting(1), Waiting(2, ready=False)], [], [1]),
    "no place, nobody": (client("a", 9), [Running(i) for i in range(4)], []),
}  # fmt: skip


@pytest.mark.parametrize("case", ADMISSIONS)
def test_admission_takes(case):
    waiting, running, expected = ADMISSIONS[case]
    found = plan(State(tuple(waiting), tuple(running)), costs(busy=5.0), LIMITS)
    assert list(found.admit) == expected


# free bytes, bytes of snapshots, bytes that the experts keep; what runs, what waits for 10 bytes
ROOM = {
    "room": (20, 0, 5, True, [1], 0),
    "just room": (15, 0, 5, True, [1], 0),
    "a byte less": (14, 0, 5, True, [], 0),
    "snapshots make room": (3, 14, 5, True, [1], 12),
    "snapshots do not make enough": (3, 11, 5, True, [], 0),
    "alone it may take what experts would keep": (3, 0, 5, False, [1], 0),
    "alone, snapshots go first": (3, 20, 5, False, [1], 12),
}


@pytest.mark.parametrize("case", ROOM)
def test_admission_by_bytes(case):
    free, cached, kept, runs, admitted, evicted = ROOM[case]
    state = State((Waiting(1, nbytes=10),), (Running(0),) if runs else (), free, cached)
    found = plan(state, costs(), Limits(max_running=4, kept_bytes=kept))
    assert (list(found.admit), found.evict) == (admitted, evicted)


def test_what_running_ones_are_promised_is_not_given_away():
    state = State((Waiting(1, nbytes=10),), (Running(0, growth=2, expected=6),), free_bytes=15)
    assert plan(state, costs(), LIMITS).admit == ()
    assert plan(replace(state, free_bytes=16), costs(), LIMITS).admit == (1,)


def test_a_large_one_in_turn_is_not_passed_by_smaller_ones():
    waiting = (Waiting(1, nbytes=50, left=1), Waiting(2, nbytes=1, left=9))
    assert plan(State(waiting, (Running(0),), free_bytes=40), costs(), LIMITS).admit == ()


GROWTH = {
    "room to grow": ((5, 5), 10, 0, (), 0, [0, 1]),
    "snapshots go before choices": ((5, 5), 4, 8, (), 6, [0, 1]),
    "the youngest goes": ((5, 5), 9, 0, (1,), 0, [0]),
    "the only one stays": ((5,), 0, 0, (), 0, [0]),
}


@pytest.mark.parametrize("case", GROWTH)
def test_growth_without_room(case):
    growth, free, cached, preempted, evicted, fed = GROWTH[case]
    running = tuple(Running(i, growth=g) for i, g in enumerate(growth))
    found = plan(State((Waiting(9),), running, free, cached), costs(), LIMITS)
    assert (found.preempt, found.evict, [key for key, _ in found.feed]) == (preempted, evicted, fed)
    assert not (found.preempt and found.admit)


@pytest.mark.parametrize(
    ("running", "decode", "admitted"),
    [
        (0, {}, 64), (1, {1: 9.0}, 1), (2, {2: 0.3}, 4), (2, {2: 0.67}, 0), (2, {1: 0.01}, 62),
        (64, {}, 0),
    ],
)  # fmt: skip
def test_as_many_run_as_keep_the_rate(running, decode, admitted):
    """A choice more is predicted to take its share of the largest pass that was measured."""
    state = State(tuple(Waiting(100 + i) for i in range(99)), tuple(map(Running, range(running))))
    assert len(plan(state, costs(decode=decode), Limits(min_rate=1.0)).admit) == admitted


@pytest.mark.parametrize(("share", "passes"), [(0.5, 10), (0.25, 30), (0.8, 3)])
def test_prompts_get_their_share_of_the_time(share, passes):
    """After a prompt's pass of 10 s, so many passes of 1 s without one."""
    found, n = Costs(share), 0
    found.observe(0.0, 10.0, {"": 64}, 64, 1)
    while found.debt > 1e-9:
        found.observe(0.0, 1.0, {"": 1}, 0, 1)
        n += 1
    assert n == passes


def test_prompts_owe_nothing_when_nobody_writes():
    found = Costs()
    found.observe(0.0, 10.0, {"": 64}, 64, 1)
    found.observe(0.0, 10.0, {"": 64}, 64, 0)
    assert found.debt == 0


def test_time_is_shared_by_rows_and_forgotten_by_half_a_minute():
    found = Costs()
    found.observe(0.0, 4.0, {"a": 3, "b": 1}, 0, 4)
    assert [found.used(name, 0.0) for name in "abc"] == [3.0, 1.0, 0.0]
    assert found.used("a", 60.0) == 1.5
    found.observe(60.0, 4.0, {"a": 1}, 0, 1)
    assert found.used("a", 60.0) == 5.5


def test_the_turn_is_that_of_who_had_less_of_late():
    found = Costs()
    found.observe(0.0, 10.0, {"early": 1}, 0, 0)
    found.observe(600.0, 1.0, {"late": 1}, 0, 0)
    waiting = (*client("late", 1), *client("early", 2))
    state = State(waiting=waiting, now=600.0)
    assert plan(state, found, replace(LIMITS, max_running=1)).admit == (2,)
    state = State(running=(Running(1, "late", 90), Running(2, "early", 90)), now=600.0)
    assert dict(plan(state, found, LIMITS).feed) == {2: 90, 1: 10}


def test_sessions_of_one_owner_do_not_take_all_turns():
    limits = replace(LIMITS, max_running=2)
    waiting = (*client("one/b", 1), *client("one/c", 2), *client("two/d", 3))
    found = plan(State(waiting, (Running(0, "one/a"),)), Costs(), limits)
    assert found.admit == (3,)
    spent = Costs()
    spent.observe(0.0, 5.0, {"one/z": 1}, 0, 0)
    assert plan(State(waiting), spent, limits).admit == (3, 1)
    assert spent.used("one", 0.0) == spent.used("one/z", 0.0) == 5.0


def fed(costs, *running, rows=512, wide=4096):
    found = plan(State(running=running), costs, Limits(rows, wide, wide_seconds=10.0))
    return dict(found.feed)


def test_a_pass_of_prompts_alone_is_wide_and_one_beside_answers_is_not():
    prompt, other = Running(2, pending=9000), Running(3, pending=300)
    assert fed(Costs(), prompt) == {2: 4096}
    assert fed(Costs(), prompt, other) == {2: 3796, 3: 300}
    assert fed(Costs(), Running(1), prompt) == {1: 1, 2: 511}
    assert fed(Costs(), prompt, wide=0) == {2: 512}
    assert fed(Costs(), Running(2, pending=9000, most=700)) == {2: 700}


def test_a_wide_pass_that_took_too_long_is_not_made_again_soon():
    costs = Costs()

    def took(seconds, rows):
        costs.observe(0.0, seconds, {"one": rows}, rows, 0)

    prompt = Running(1, pending=9000)
    took(9.0, 512)  # a sweep that is slow for few rows, too
    assert fed(costs, prompt) == {1: 4096}
    took(12.0, 4096)
    assert fed(costs, prompt) == {1: 2048}
    took(11.0, 2048)
    assert fed(costs, prompt) == {1: 1024}
    for _ in range(5):
        took(5.0, 1024)
    assert fed(costs, prompt) == {1: 4096}  # forgotten: tried again
    took(11.0, 512)
    took(100.0, 512)
    assert fed(costs, prompt) == {1: 512}


def test_passes_beside_answers_say_nothing_of_wide_ones():
    costs = Costs()
    costs.observe(0.0, 99.0, {"one": 512}, 500, 12)
    assert costs.prompt_rows(512, 4096, 10.0) == 4096


RESERVED = Limits(max_running=4, reserve=0.5, session_bytes=100, kept_bytes=5)
WHO_FINDS_ROOM = {  # bytes of each that waits, those that run, free bytes; who is admitted
    "new ones take their half of the places": ([1, 1, 1], 0, 100, "new", [0, 1]),
    "those that go on take all": ([1] * 6, 0, 100, "goes on", [0, 1, 2, 3]),
    "none is left for new ones": ([1], 2, 100, "new", []),
    "nor for others": ([1], 4, 100, "goes on", []),
    "new ones take their half of the memory": ([30, 30], 1, 90, "new", [0]),
    "those that go on take the rest, not what experts need": ([30, 30], 1, 66, "goes on", [0, 1]),
    "one that runs alone takes any": ([90], 0, 100, "new", [0]),
}


@pytest.mark.parametrize("case", WHO_FINDS_ROOM)
def test_a_reserve_is_for_answers_that_go_on(case):
    sizes, running, free, who, wanted = WHO_FINDS_ROOM[case]
    waiting = tuple(Waiting(i, nbytes=n, goes_on=who == "goes on") for i, n in enumerate(sizes))
    state = State(waiting, tuple(Running(90 + i) for i in range(running)), free)
    assert list(plan(state, Costs(), RESERVED).admit) == wanted
