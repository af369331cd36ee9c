"""Talk about small facts: the world, words, computing, Python."""

import json

import facts
from data import read
from dialogue import Talk
from phrases import say
from values import ANIMALS, COLOURS, NAMES, WEEKDAYS, Values

UNKNOWN = "I do not know that. I am a small model and know only a few things."
DOCS: dict[str, str] = json.loads(read("docstrings.json"))


def capitals(talk: Talk, values: Values) -> None:
    rng = values.rng
    country, city = rng.choice(list(facts.CAPITALS.items()))
    if rng.random() < 0.12:
        made = values.invented().capitalize()
        say(talk, values, "capitals 1", f"I do not know the capital of {made}.", c=made)
    elif rng.random() < 0.25:
        say(talk, values, "capitals 3", f"{city} is the capital of {country}.", c=city)
    else:
        say(talk, values, "capitals 4", f"The capital of {country} is {city}.", c=country)
    while rng.random() < 0.3:
        country, city = rng.choice(list(facts.CAPITALS.items()))
        say(talk, values, "capitals 2", f"The capital of {country} is {city}.", c=country)


def animals(talk: Talk, values: Values) -> None:
    rng = values.rng
    draw = rng.random()
    if draw < 0.35:
        name, value = rng.choice(list(facts.SOUNDS.items()))
        say(talk, values, "animals 1", f"A {name} {value}.", a=name)
    elif draw < 0.7:
        name, value = rng.choice(list(facts.LEGS.items()))
        say(talk, values, "animals 2", f"A {name} has {value} legs.", a=name)
    else:
        name, value = rng.choice(list(facts.BABIES.items()))
        say(talk, values, "animals 3", f"A young {name} is called a {value}.", a=name)


def colours(talk: Talk, values: Values) -> None:
    rng = values.rng
    if rng.random() < 0.3:
        (a, b), mixed = rng.choice(list(facts.MIXES.items()))
        if rng.random() < 0.5:
            a, b = b, a
        say(talk, values, "colours 2", f"{a.capitalize()} and {b} make {mixed}.", a=a, b=b)
        return
    thing, colour = rng.choice(list(facts.COLOURS_OF.items()))
    say(talk, values, "colours 1", f"{thing[0].upper()}{thing[1:]} is {colour}.", t=thing)


def words(talk: Talk, values: Values) -> None:
    rng = values.rng
    draw = rng.random()
    if draw < 0.3:
        pairs = list(facts.OPPOSITES.items())
        a, b = rng.choice(pairs + [(b, a) for a, b in pairs])
        say(talk, values, "words 1", f"The opposite of {a} is {b}.", a=a)
    elif draw < 0.5:
        a, b = rng.choice(list(facts.PLURALS.items()))
        say(talk, values, "words 2", f"The plural of {a} is {b}.", a=a)
    elif draw < 0.65:
        language, hello = rng.choice(list(facts.HELLOS.items()))
        say(talk, values, "words 3", f"Hello in {language} is {hello}.", a=language)
    elif draw < 0.8:
        number = rng.randrange(21)
        say(talk, values, "words 4", f"{number} is {facts.NUMBER_WORDS[number]}.", a=number)
    else:
        word = values.phrase() if rng.random() < 0.6 else values.word()
        say(talk, values, "words 5", word, a=word)


KINDS = {
    "animals": ANIMALS,
    "colours": COLOURS[:9],
    "fruits": ["apple", "banana", "cherry", "pear"],
    "cities": ["Paris", "London", "Rome", "Berlin", "Tokyo"],
    "names": NAMES[:9],
    "planets": facts.PLANETS,
    "seasons": facts.SEASONS,
    "months": facts.MONTHS,
    "days": WEEKDAYS,
    "tools": ["hammer", "saw", "drill", "ladder"],
    "programming languages": ["Python", "C", "Rust", "Java", "Go"],
    "numbers": ["one", "two", "three", "four", "five"],
}


def lists(talk: Talk, values: Values) -> None:
    rng = values.rng
    if rng.random() < 0.4:
        top = rng.randrange(3, 21)
        back = rng.random() < 0.25
        numbers = [str(n) for n in range(1, top + 1)]
        if back:
            say(talk, values, "lists 2", ", ".join(numbers[::-1]), n=top)
        else:
            say(talk, values, "lists 3", ", ".join(numbers), n=top)
        return
    kind, items = rng.choice(list(KINDS.items()))
    count = rng.randrange(2, min(len(items), 5) + 1)
    shown = items[:count]
    text = f"{', '.join(shown[:-1])} and {shown[-1]}."
    number = rng.choice((str(count), facts.NUMBER_WORDS[count]))
    say(talk, values, "lists 1", text[0].upper() + text[1:], n=number, k=kind)


def glossary(talk: Talk, values: Values) -> None:
    rng = values.rng
    if rng.random() < 0.15:
        made = values.invented()
        if not any(made in term for term in (*facts.GLOSSARY, *DOCS)):
            say(talk, values, "glossary 2", UNKNOWN, t=made)
            return
    term, text = rng.choice(list(facts.GLOSSARY.items()))
    say(talk, values, "glossary 1", text, t=term)


def asked(talk: Talk, values: Values) -> None:
    question, answer = values.rng.choice(list(facts.ASKED.items()))
    say(talk, values, "asked 1", answer, q=question)


def python_names(talk: Talk, values: Values) -> None:
    rng = values.rng
    name, text = rng.choice(list(DOCS.items()))
    if rng.random() < 0.12:
        name = (
            values.invented() if rng.random() < 0.5 else f"{name.split('.')[0]}.{values.invented()}"
        )
        text = f"I do not know {name}."
    if not text.startswith("I do not know"):
        text = f"`{name}`: {text}"
    say(talk, values, "python names", text, n=rng.choice((name, f"`{name}`")))


def code(talk: Talk, values: Values) -> None:
    what, text = values.rng.choice(list(facts.CODE.items()))
    block = text.replace("\\n", "\n")
    say(talk, values, "code 1", f"```python\n{block}\n```", w=what)
