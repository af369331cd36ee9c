"""Values that people say and tools take: places, names, numbers, sentences. Some are held out."""

import hashlib
import random
from collections.abc import Sequence
from functools import cache

from data import LISTS, read

CITIES = LISTS["cities"]
TWO_WORDS = ["New York", "San Francisco", "Los Angeles", "Cape Town", "Buenos Aires", "Mexico City",
             "Hong Kong", "Tel Aviv", "New Delhi", "Rio de Janeiro", "Addis Ababa", "Kuala Lumpur",
             "Las Vegas", "San Diego", "Santa Fe", "Ho Chi Minh City"]  # fmt: skip
NAMES = LISTS["names"]
SURNAMES = LISTS["surnames"]
THINGS = LISTS["things"]
FOODS = LISTS["foods"]
ANIMALS = LISTS["animals"]
COLOURS = LISTS["colours"]
ADJECTIVES = LISTS["adjectives"]
NOUNS = LISTS["nouns"]
ROOMS = ["kitchen", "bedroom", "living room", "bathroom", "garage", "hall", "office", "garden",
         "attic", "cellar", "dining room", "nursery", "porch", "study"]  # fmt: skip
LANGUAGES = LISTS["languages"]
CURRENCIES = LISTS["currencies"]
COMPANIES = LISTS["companies"]
WEEKDAYS = LISTS["weekdays"]
TOPICS = LISTS["topics"]
TASKS = ["buy milk", "call the dentist", "water the plants", "pay the rent", "feed the cat",
         "clean the kitchen", "send the report", "book a table", "fix the bike", "wash the car",
         "take out the trash", "pick up the parcel", "write the summary", "back up the disk",
         "charge the phone", "renew the passport", "check the oven",
         "close the windows"]  # fmt: skip
SYLLABLES = LISTS["syllables"]
EXTENSIONS = LISTS["extensions"]
FOLDERS = LISTS["folders"]
WORDS = tuple(read("words.txt").split())
LETTERS = "abcdefghijklmnopqrstuvwxyz"
STEMS = LISTS["stems"]


def is_held(word: str) -> bool:
    """One word in eight is kept for the held-out talks."""
    return hashlib.sha256(word.encode()).digest()[0] < 32


# Compounds are made of all words, so that every token is met, if not every word.
ALL = [*WORDS, *CITIES, *NAMES, *SURNAMES, *THINGS, *FOODS, *ANIMALS, *COLOURS, *ADJECTIVES, *NOUNS,
       *LANGUAGES, *CURRENCIES, *COMPANIES, *WEEKDAYS, *TOPICS, *STEMS, *FOLDERS,
       *" ".join([*TWO_WORDS, *ROOMS, *TASKS]).split()]  # fmt: skip


def capital(word: str) -> str:
    return word[0].upper() + word[1:]


@cache
def _side(words: tuple[str, ...], held: bool) -> tuple[str, ...]:
    return tuple(word for word in words if is_held(word) == held) or words


class Values:
    """Draws values; those of held-out talks are ones that no training talk has.

    Args:
        rng: where the draws come from.
        held: draw the held-out ones.
    """

    def __init__(self, rng: random.Random, held: bool) -> None:
        self.rng, self.held = rng, held

    def one(self, words: Sequence[str]) -> str:
        """A word of this side."""
        return self.rng.choice(_side(tuple(words), self.held))

    def invented(self) -> str:
        """A word that nobody has seen, or that means nothing here."""
        draw = self.rng.random()
        if draw < 0.35:
            return self.plain()
        if draw < 0.45:
            return "".join(self.rng.choice(LETTERS) for _ in range(self.rng.randrange(3, 8)))
        if draw < 0.65:
            return self.rng.choice(("", "", "_", "-")).join(self.rng.choices(ALL, k=2))
        return "".join(self.rng.choice(SYLLABLES) for _ in range(self.rng.choice((2, 2, 3))))

    def plain(self) -> str:
        """Any English word."""
        return self.one(WORDS)

    def phrase(self) -> str:
        """Some words in a row."""
        return " ".join(self.plain() for _ in range(self.rng.choice((2, 2, 3, 3, 4, 5, 7))))

    def city(self) -> str:
        draw = self.rng.random()
        if draw < 0.4:
            return capital(self.invented())
        return self.one(TWO_WORDS if draw < 0.5 else CITIES)

    def person(self) -> str:
        return capital(self.invented()) if self.rng.random() < 0.4 else self.one(NAMES)

    def full_name(self) -> str:
        odd = self.rng.random() < 0.3
        return f"{self.person()} {capital(self.invented()) if odd else self.one(SURNAMES)}"

    def thing(self) -> str:
        return self.invented() if self.rng.random() < 0.35 else self.one(THINGS)

    def food(self) -> str:
        return self.plain() if self.rng.random() < 0.3 else self.one(FOODS)

    def animal(self) -> str:
        return self.plain() if self.rng.random() < 0.3 else self.one(ANIMALS)

    def colour(self) -> str:
        return self.plain() if self.rng.random() < 0.2 else self.one(COLOURS)

    def room(self) -> str:
        return self.plain() if self.rng.random() < 0.25 else self.one(ROOMS)

    def language(self) -> str:
        return capital(self.invented()) if self.rng.random() < 0.2 else self.one(LANGUAGES)

    def currency(self) -> str:
        return self.one(CURRENCIES)

    def company(self) -> str:
        return capital(self.invented()) if self.rng.random() < 0.4 else self.one(COMPANIES)

    def topic(self) -> str:
        draw = self.rng.random()
        if draw < 0.2:
            return f"{self.one(ADJECTIVES)} {self.one(NOUNS)}s"
        if draw < 0.5:
            return self.phrase() if draw < 0.35 else self.plain()
        return self.one(TOPICS) if draw < 0.85 else self.one(ANIMALS) + "s"

    def word(self) -> str:
        draw = self.rng.random()
        return self.invented() if draw < 0.5 else self.one(THINGS + NOUNS + ANIMALS)

    def title(self) -> str:
        """Of a song, a film or a book."""
        adjective, noun = self.one(ADJECTIVES).capitalize(), self.one(NOUNS).capitalize()
        if self.rng.random() < 0.5:
            adjective, noun = self.plain().capitalize(), self.plain().capitalize()
        return self.rng.choice((f"The {adjective} {noun}", f"{adjective} {noun}",
                                f"The {noun} of {self.person()}", noun))  # fmt: skip

    def task(self) -> str:
        if self.rng.random() < 0.4:
            verb = self.rng.choice(("buy", "sell", "repair", "find", "return", "clean"))
            return f"{verb} the {self.thing()}"
        if self.rng.random() < 0.3:
            return f"{self.plain()} the {self.plain()}"
        return self.one(TASKS)

    def sentence(self) -> str:
        """What one person tells another."""
        rng = self.rng
        if rng.random() < 0.35:
            return self.phrase()
        return rng.choice((
            f"I will be {rng.choice((5, 10, 15, 20, 30))} minutes late",
            f"the {self.thing()} is in the {self.room()}",
            f"{self.person()} is coming on {self.one(WEEKDAYS)}",
            f"we meet at {self.time()} in {self.city()}",
            f"the {self.one(NOUNS)} is {self.one(ADJECTIVES)}",
            f"the {self.plain()} is {self.plain()}",
            f"please {self.task()}",
            f"I like {self.topic()}",
            f"the code is {self.code()}",
            f"dinner is ready at {self.time()}",
            f"thank you for the {self.thing()}",
        ))  # fmt: skip

    def path(self) -> str:
        stem = self.invented() if self.rng.random() < 0.5 else self.one(STEMS)
        name = f"{stem}.{self.rng.choice(EXTENSIONS)}"
        depth = self.rng.choice((0, 0, 1, 1, 2))
        return "/".join([*(self.rng.choice(FOLDERS) for _ in range(depth)), name])

    def folder(self) -> str:
        last = self.invented() if self.rng.random() < 0.5 else self.one(FOLDERS)
        return f"{self.rng.choice(FOLDERS)}/{last}" if self.rng.random() < 0.4 else last

    def email(self) -> str:
        host = self.rng.choice(("example.com", "mail.org", f"{self.invented()}.net"))
        return f"{self.person().lower()}@{host}"

    def host(self) -> str:
        return f"{self.invented()}.{self.rng.choice(('com', 'org', 'net', 'io'))}"

    def url(self) -> str:
        return f"https://{self.host()}/{self.one(NOUNS)}"

    def code(self) -> str:
        """Of a ticket, an order, a flight."""
        if self.rng.random() < 0.2:
            return "".join(self.rng.choice("0123456789abcdef") for _ in range(8))
        head = "".join(self.rng.choice("ABCDEFGHKLMNPRSTX") for _ in range(self.rng.choice((1, 2))))
        return f"{head}{self.rng.choice(('-', '', ''))}{self.rng.randrange(100, 99999)}"

    def number(self) -> int:
        return self.rng.choice((self.rng.randrange(2, 20), self.rng.randrange(10, 1000),
                                self.rng.randrange(1000, 100000)))  # fmt: skip

    def few(self) -> int:
        return self.rng.randrange(1, 13)

    def minutes(self) -> int:
        return self.rng.choice((1, 2, 3, 5, 7, 8, 10, 12, 15, 20, 25, 30, 45, 50, 60, 90))

    def percent(self) -> int:
        return self.rng.randrange(0, 101)

    def degrees(self) -> int:
        return self.rng.randrange(14, 29)

    def amount(self) -> int | float:
        whole = self.rng.randrange(1, 2000)
        return (
            whole if self.rng.random() < 0.6 else round(whole + self.rng.randrange(1, 100) / 100, 2)
        )

    def date(self) -> str:
        rng = self.rng
        return f"20{rng.randrange(20, 36)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"

    def weekday(self) -> str:
        return self.rng.choice(WEEKDAYS)

    def time(self) -> str:
        return (
            f"{self.rng.randrange(0, 24):02}:{self.rng.choice((0, 5, 10, 15, 20, 30, 40, 45)):02}"
        )

    def expression(self) -> str:
        rng = self.rng
        text = f"{self.number()} {rng.choice('+-*/')} {self.number()}"
        return text if rng.random() < 0.75 else f"({text}) {rng.choice('+-*/')} {self.few()}"

    def command(self) -> str:
        rng = self.rng
        return rng.choice((f"ls {self.folder()}", f"cat {self.path()}", f"python {self.path()}",
                           f"rm {self.path()}", f"mkdir {self.folder()}", "git status", "pwd",
                           "make test", f"grep {self.word()} {self.path()}", "df -h", "date",
                           f"wc -l {self.path()}", f"echo {self.word()}", "pytest -q"))  # fmt: skip

    def draw(self, kind: str) -> object:
        """A value of a kind: a method of this name, or `choice:a|b`, `int:low:high`, `bool`."""
        name, _, rest = kind.partition(":")
        if name == "choice":
            return self.rng.choice(rest.split("|"))
        if name == "int":
            low, high = rest.split(":")
            return self.rng.randrange(int(low), int(high) + 1)
        if name == "bool":
            return self.rng.random() < 0.5
        return getattr(self, name)()


JSON_TYPES = {"number": "integer", "few": "integer", "minutes": "integer", "percent": "integer",
              "degrees": "integer", "amount": "number", "int": "integer",
              "bool": "boolean"}  # fmt: skip


def json_type(kind: str) -> str:
    """JSON schema's word for a kind."""
    return JSON_TYPES.get(kind.partition(":")[0], "string")
