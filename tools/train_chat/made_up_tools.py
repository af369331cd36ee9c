"""Tools that are made up for one talk, such as archive_ticket and get_weight."""

from data import LISTS
from phrases import FORMS
from toolbox import Parameter, Tool
from values import ANIMALS, FOODS, NOUNS, THINGS, Values

VERBS = {  # and a word of the same meaning
    "archive": "store",
    "delete": "remove",
    "open": "unlock",
    "close": "shut",
    "find": "look up",
    "cancel": "call off",
    "update": "change",
    "rename": "give a new name to",
    "lock": "block",
    "start": "launch",
    "stop": "halt",
    "print": "put on paper",
    "export": "save",
    "check": "test",
    "order": "buy",
    "book": "reserve",
    "share": "publish",
    "copy": "duplicate",
    "move": "shift",
    "clean": "wash",
    "repair": "fix",
    "show": "display",
    "approve": "accept",
    "reject": "refuse",
    "assign": "hand over",
    "restart": "reboot",
    "hide": "cover",
    "count": "number",
    "sell": "offer",
    "pause": "hold",
    "resume": "go on with",
    "rate": "judge",
    "install": "set up",
    "scan": "read",
}
OBJECTS = LISTS["objects"] + THINGS + ANIMALS + NOUNS + FOODS
# kind, names, how it is said
EXTRAS = [
    ("code", ("id", "code", "reference"), "{v}"),
    ("number", ("id", "number"), "{v}"),
    ("person", ("name", "owner", "person"), "of {v}"),
    ("person", ("recipient", "to", "for_person"), "for {v}"),
    ("city", ("city", "place", "location"), "in {v}"),
    ("date", ("date", "day", "due_date"), "on {v}"),
    ("time", ("time", "at"), "at {v}"),
    ("few", ("count", "people", "quantity"), "for {v} people"),
    ("colour", ("color", "colour"), "in {v}"),
    ("enum:low|medium|high", ("priority", "level"), "with {v} priority"),
    ("enum:small|medium|large", ("size",), "of size {v}"),
    ("amount", ("price", "amount"), "for {v} dollars"),
    ("word", ("label", "name", "title"), "called {v}"),
    ("email", ("email", "address"), "by {v}"),
    ("room", ("room", "where"), "in the {v}"),
    ("sentence", ("reason", "comment", "note"), "because {v}"),
    ("percent", ("percent", "share"), "at {v} percent"),
    ("path", ("path", "file"), "from {v}"),
]
HAS = [
    "city",
    "person",
    "full_name",
    "code",
    "title",
    "word",
    "path",
    "food",
    "animal",
    "company",
    "host",
    "url",
    "thing",
    "date",
    "topic",
    "number",
]
ASK = FORMS["asked for"].split("|")
ABOUT = {"full_name": "person", "host": "server", "code": "id", "url": "address"}


def made_up(values: Values, verb: str = "", thing: str = "") -> Tool:
    """A tool of a verb and a thing, such as archive_ticket."""
    rng = values.rng
    verb = verb or (values.plain() if rng.random() < 0.5 else values.one(list(VERBS)))
    thing = thing or (values.invented() if rng.random() < 0.5 else values.one(OBJECTS))
    same = VERBS.get(verb, verb)
    joined = thing.replace(" ", "_")
    names = (
        f"{verb}_{joined}",
        f"{verb}_{joined}",
        f"{joined}_{verb}",
        f"{verb}{thing.title().replace(' ', '')}",
        f"{verb}_{joined}s",
    )
    about = (
        f"{verb.capitalize()} a {thing}",
        f"{same.capitalize()} a {thing}",
        f"{verb.capitalize()}s the {thing}",
        f"Use this to {verb} a {thing}",
    )
    chosen: dict[str, Parameter] = {}
    said: list[str] = []
    for kind, keys, words in rng.sample(EXTRAS, rng.choice((1, 1, 2, 2, 3))):
        name = rng.choice(keys)
        if rng.random() < 0.15:
            name = f"{joined}_{name}"
        if name in chosen or any(kind == other.kind for other in chosen.values()):
            continue
        plain = name.replace("_", " ").capitalize()
        chosen[name] = Parameter((name,), kind, (plain, f"{plain} of the {thing}"))
        said.append(words.replace("{v}", f"{{{name}}}"))
    if rng.random() < 0.7:  # the schema's order is not always the order in which it is said
        keys_of = list(chosen)
        rng.shuffle(keys_of)
        chosen = {key: chosen[key] for key in keys_of}
    rest = " ".join(said)
    form = rng.choice(
        (
            f"{verb.capitalize()} the {thing} {rest}",
            f"Please {verb} the {thing} {rest}",
            f"Can you {verb} the {thing} {rest}",
            f"I want to {verb} the {thing} {rest}",
            f"{same.capitalize()} the {thing} {rest}",
        )
    )
    end = "?" if form.startswith("Can you") else "."
    done = rng.choice(("ok", "done", "success"))
    return Tool(
        names, about, chosen, (form + end,), {"status": f"choice:{done}"}, f"Done: {verb} {thing}."
    )


def asked_for(values: Values) -> Tool:
    """A tool that tells one thing of another, such as get_weight of a parcel."""
    rng = values.rng
    what = values.one(OBJECTS) if rng.random() < 0.3 else values.plain()
    if rng.random() < 0.25:
        what = f"{values.plain()} {what}"
    kind = rng.choice(HAS)
    of = rng.choice((ABOUT.get(kind, kind), kind.replace("_", " "), values.plain()))
    joined, title = what.replace(" ", "_"), what.title().replace(" ", "")
    names = (
        f"get_{joined}",
        joined,
        f"{joined}_of_{of.replace(' ', '_')}",
        f"get{title}",
        f"find_{joined}",
        f"lookup_{joined}",
        f"{joined}_info",
    )
    about = (
        f"Get the {what} of a {of}",
        f"Tells the {what}",
        f"Returns the {what} of the {of}",
        f"Look up the {what} of a {of}",
        f"The {what} of a {of}",
    )
    key = of.replace(" ", "_")
    lines = tuple(
        line.replace("{w}", what).replace("{v}", f"{{{key}}}") for line in rng.sample(ASK, 3)
    )
    lines = tuple(line[0].upper() + line[1:] if line[0] != "{" else line for line in lines)
    parameter = Parameter((key, key, "name", "of"), kind, (of.capitalize(), f"The {of}"))
    return Tool(
        names,
        about,
        {key: parameter},
        lines,
        {joined: rng.choice(("number", "word", "amount", "time"))},
        f"The {what} of {{{key}}} is {{{joined}}}.",
    )
