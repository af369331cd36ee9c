"""Talk without tools: greetings, who it is, what was said before, play, what it does not know."""

import random
from collections.abc import Callable

import facts
from data import sections
from dialogue import Talk
from phrases import FORMS, say
from talk_facts import (
    UNKNOWN,
    animals,
    asked,
    capitals,
    code,
    colours,
    glossary,
    lists,
    python_names,
    words,
)
from talk_numbers import calendar, compare, conversions, large_sums, sums
from values import ADJECTIVES, NOUNS, Values

SYSTEMS = [
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "Be brief.",
    "You are a friendly assistant. Answer in one sentence.",
    "Answer the user's questions.",
    "You are moeflux's demo model.",
    "You can call tools.",
    "Use the tools when they help.",
    "You are an agent. Call tools to answer.",
    "You are a coding assistant.",
    "Help the user. Do not make things up.",
]
NO_TOOL = "I cannot look that up: I have no tool for it."


def _table(text: str) -> list[tuple[list[str], str]]:
    """`question|question => answer` lines."""
    lines = (line.split(" => ") for line in text.strip().splitlines())
    return [(asked.split("|"), answer) for asked, answer in lines]


GREETINGS, IDENTITY = (_table(text) for text in sections("fixed.txt").values())


def _fixed(table: list[tuple[list[str], str]]) -> Callable[[Talk, Values], None]:
    def add(talk: Talk, values: Values) -> None:
        asked, answer = values.rng.choice(table)
        talk.user(values.rng.choice(asked))
        talk.answer(answer)

    return add


def names(talk: Talk, values: Values) -> None:
    """What was said before is remembered."""
    rng = values.rng
    what = ""
    if rng.random() < 0.6:
        value = values.person()
        say(talk, values, "names 1", f"Nice to meet you, {value}!", n=value)
    else:
        kinds = (
            "favourite colour",
            "favourite food",
            "favourite animal",
            "dog's name",
            "home town",
        )
        what = rng.choice(kinds)
        value = (values.colour, values.food, values.animal, values.person, values.city)[
            kinds.index(what)
        ]()
        answer = f"I will remember that your {what} is {value}."
        say(talk, values, "names 2", answer, w=what, v=value)
    for _ in range(rng.choice((0, 1, 1, 2))):
        small_talk(talk, rng, values.held, depth=1)
    if rng.random() < 0.85:
        name = "own thing" if what else "own name"
        say(talk, values, name, f"Your {what or 'name'} is {value}.", w=what)


def _filled(values: Values, name: str) -> str:
    v = values
    given = {
        "p": v.full_name(),
        "t": v.topic(),
        "y": 1900 + v.rng.randrange(130),
        "c": v.city(),
        "c2": v.city(),
        "i": v.thing(),
        "f": v.food(),
        "title": v.title(),
        "path": v.path(),
        "time": v.time(),
        "room": v.room(),
        "co": v.company(),
        "task": v.task(),
        "l": v.language(),
        "s": v.sentence(),
        "url": v.url(),
        "cmd": v.command(),
    }
    return v.rng.choice(FORMS[name].split("|")).format(**given)


def unknown(talk: Talk, values: Values) -> None:
    say(talk, values, "unknown 1", UNKNOWN, q=_filled(values, "unknowable"))


def no_tools(talk: Talk, values: Values) -> None:
    say(talk, values, "no_tools 1", NO_TOOL, q=_filled(values, "look up"))


def play(talk: Talk, values: Values) -> None:
    """Jokes, verses, stories."""
    rng = values.rng
    draw = rng.random()
    if draw < 0.4:
        jokes = list(facts.JOKES)
        start = rng.choice((0, 0, 0, *range(len(jokes))))
        say(talk, values, "play 2", jokes[start])
        while rng.random() < 0.4:
            start = (start + 1) % len(jokes)
            say(talk, values, "play 4", jokes[start])
        return
    thing = rng.choice((values.thing(), values.animal(), values.one(NOUNS)))
    kind = values.one(ADJECTIVES)
    if draw < 0.7:
        text = (
            f"The {thing} was here before the day,\nthe {thing} will be here when we are away;\n"
            f"so sing, little {thing}, sing and stay."
        )
        say(talk, values, "play 3", text, t=thing)
        return
    name = values.person()
    text = (
        f"Once there was a {kind} {thing}. {name} found it in the {values.one(NOUNS)} and "
        f"took it home. From that day on, {name} and the {thing} were friends."
    )
    say(talk, values, "play 1", text, p=name, k=kind, t=thing)


GENERATORS: list[tuple[int, Callable[[Talk, Values], None]]] = [
    (10, _fixed(GREETINGS)),
    (10, _fixed(IDENTITY)),
    (10, sums),
    (2, large_sums),
    (3, compare),
    (6, conversions),
    (5, calendar),
    (6, capitals),
    (4, animals),
    (3, colours),
    (5, words),
    (4, lists),
    (9, glossary),
    (6, asked),
    (14, python_names),
    (7, code),
    (5, names),
    (5, unknown),
    (5, no_tools),
    (5, play),
]
NESTED = [(w, g) for w, g in GENERATORS if g is not names]


def small_talk(talk: Talk, rng: random.Random, held: bool, depth: int = 0) -> None:
    """One more exchange."""
    weights, generators = zip(*(NESTED if depth else GENERATORS), strict=True)
    rng.choices(generators, weights)[0](talk, Values(rng, held))


def beside_tools(talk: Talk, values: Values, tools: str) -> None:
    """An exchange that needs none of the tools, whose names and descriptions are given."""
    free = [_fixed(GREETINGS + IDENTITY)] * 5
    free += [glossary, asked, python_names, python_names, code, animals, colours, names]
    if "capital" not in tools:
        free.append(capitals)
    if not any(word in tools.lower() for word in ("calculat", "sum", "multiply", "arithmetic")):
        free.append(sums)
    values.rng.choice(free)(talk, values)


def plain_talk(rng: random.Random, held: bool) -> Talk:
    """A talk without tools, of one to six exchanges."""
    talk = Talk()
    draw = rng.random()
    name = ""
    if draw < 0.35:
        talk.system = rng.choice(SYSTEMS)
    elif draw < 0.45:
        name = Values(rng, held).person()
        talk.system = rng.choice(
            ("You are {}.", "You are {}, a helpful assistant.", "Your name is {}.")
        ).format(name)
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 5))):
        if name and rng.random() < 0.4:
            talk.user(
                rng.choice(
                    ("Who are you?", "What is your name?", "What's your name?", "who are you")
                )
            )
            talk.answer(f"I am {name}.")
        elif not name:
            small_talk(talk, rng, held)
        else:
            weights, generators = zip(*(pair for pair in GENERATORS[2:]), strict=True)
            rng.choices(generators, weights)[0](talk, Values(rng, held))
    return talk
