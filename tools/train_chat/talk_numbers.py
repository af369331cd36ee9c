"""Talk about numbers: sums, comparisons, units, days and months."""

import facts
from dialogue import Talk
from phrases import say
from values import WEEKDAYS, Values


def sums(talk: Talk, values: Values) -> None:
    rng = values.rng
    sign = rng.choice("++--*/")
    top = rng.choice((10, 20, 100, 100, 1000))
    a, b = rng.randrange(top), rng.randrange(top)
    if sign == "-" and b > a and rng.random() < 0.8:
        a, b = b, a
    if sign in "*/":
        a, b = rng.randrange(13), rng.randrange(1, 13)
    found = a + b if sign == "+" else a - b if sign == "-" else a * b
    if sign == "/":
        a, found = a * b, a
    words = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}[sign]
    name = "sums"
    if rng.random() < 0.4:
        name = "sums in words"
    say(talk, values, name, f"{a} {sign} {b} = {found}", a=a, b=b, s=sign, w=words)


def large_sums(talk: Talk, values: Values) -> None:
    rng = values.rng
    a, b = rng.randrange(1000, 10**7), rng.randrange(20, 10**6)
    sign = rng.choice("*/*+-")
    say(
        talk,
        values,
        "large_sums 1",
        "That is too large for me. Give me a calculator as a tool.",
        a=a,
        b=b,
        s=sign,
    )


def compare(talk: Talk, values: Values) -> None:
    a, b = (values.rng.randrange(values.rng.choice((20, 100, 1000))) for _ in range(2))
    if a == b:
        b += 1
    draw = values.rng.random()
    if draw < 0.5:
        say(talk, values, "compare 1", f"{max(a, b)} is larger.", a=a, b=b)
    elif draw < 0.75:
        say(talk, values, "compare 2", f"{min(a, b)} is smaller.", a=a, b=b)
    else:
        say(
            talk,
            values,
            "compare 3",
            f"Yes, {a} is even." if a % 2 == 0 else f"No, {a} is odd.",
            a=a,
        )


UNITS = [
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("kilograms", "grams", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("years", "months", 12),
    ("litres", "millilitres", 1000),
    ("dozen", "pieces", 12),
    ("centimetres", "millimetres", 10),
    ("tonnes", "kilograms", 1000),
]


def conversions(talk: Talk, values: Values) -> None:
    rng = values.rng
    if rng.random() < 0.2:
        celsius = rng.randrange(-4, 11) * 10 // rng.choice((1, 2))
        celsius -= celsius % 5
        say(
            talk,
            values,
            "conversions 2",
            f"{celsius} degrees Celsius are {celsius * 9 // 5 + 32} degrees Fahrenheit.",
            c=celsius,
        )
        return
    large, small, factor = rng.choice(UNITS)
    count = rng.randrange(2, 13)
    if rng.random() < 0.35:
        say(
            talk,
            values,
            "conversions 3",
            f"{count * factor} {small} are {count} {large}.",
            n=count * factor,
            small=small,
            large=large,
        )
        return
    say(
        talk,
        values,
        "conversions 1",
        f"{count} {large} are {count * factor} {small}.",
        n=count,
        small=small,
        large=large,
    )


def calendar(talk: Talk, values: Values) -> None:
    rng = values.rng
    items, what = rng.choice(
        (
            (WEEKDAYS, "day"),
            (facts.MONTHS, "month"),
            (facts.SEASONS, "season"),
            (facts.PLANETS[:-1], "planet"),
        )
    )
    at = rng.randrange(len(items))
    here = items[at]
    draw = rng.random()
    if what == "month" and draw < 0.4:
        days = facts.MONTH_DAYS[here]
        more = ", or 29 in a leap year" if here == "February" else ""
        say(talk, values, "calendar 1", f"{here} has {days} days{more}.", m=here)
    elif what == "day" and draw < 0.15:
        weekend = here in WEEKDAYS[5:]
        say(
            talk,
            values,
            "calendar 2",
            f"Yes, {here} is on the weekend." if weekend else f"No, {here} is a working day.",
            d=here,
        )
    elif what == "planet":
        words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
        say(talk, values, "calendar 3", f"{here} is the {words[at]} planet.", n=words[at])
    elif draw < 0.75:
        after = items[(at + 1) % len(items)]
        say(talk, values, "calendar 4", f"{after} comes after {here}.", w=what, d=here)
    else:
        say(talk, values, "calendar 5", f"{items[at - 1]} comes before {here}.", w=what, d=here)
