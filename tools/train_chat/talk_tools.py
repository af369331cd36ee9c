"""Talks with tools: the right call, its result told, no call where none fits."""

import random

from dialogue import Talk
from made_up_tools import asked_for, made_up
from small_talk import SYSTEMS, beside_tools
from tool_uses import UNSEEN, Live, Use
from toolbox import HELD, TRAINED, Tool
from values import Values

NO_FIT = "I have no tool for that."
ANSWERED = {"calculate", "add", "multiply", "convert_units", "get_capital", "count"}
RELATED = (
    "weather forecast",
    "add multiply calculat sum",
    "light",
    "file command folder",
    "search web news film book page word",
    "reminder alarm timer task event calendar list",
    "message email",
    "convert currenc",
    "capital",
    "order parcel cart",
    "flight way route",
    "eat recipe food calories restaurant feed",
    "date event calendar",
    "ticket",
    "number dice random coin",
    "user",
    "robot",
    "city position people time sun",
)


def shelf(values: Values, count: int) -> list[Live]:
    """So many tools, of different names; some are much alike."""
    rng = values.rng
    known = HELD if values.held else TRAINED
    tools: list[Tool] = []
    while len(tools) < count:
        draw = rng.random()
        if draw < 0.4:
            tools.append(rng.choice(known))
        elif draw < 0.65:
            tools.append(asked_for(values))
        elif draw < 0.8 and tools and tools[-1].tell.startswith("Done: "):
            verb, thing = tools[-1].tell[6:-1].split(" ", 1)
            other = made_up(values, verb) if rng.random() < 0.5 else made_up(values, thing=thing)
            tools.append(other)
        else:
            tools.append(made_up(values))
    lives: list[Live] = []
    for tool in tools:
        live = Live(tool, values)
        alike = any(
            live.name == other.name
            or tool is other.tool
            or tool.tell == other.tool.tell
            or tool.ask == other.tool.ask
            for other in lives
        )
        if not alike:
            lives.append(live)
    return lives


def tool_talk(rng: random.Random, held: bool) -> Talk:
    """A talk with one to six tools and one to five requests."""
    values = Values(rng, held)
    lives = shelf(values, rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6)))
    order = list(lives)
    rng.shuffle(order)
    talk = Talk([live.schema for live in order])
    if rng.random() < 0.5:
        talk.system = rng.choice(SYSTEMS)
    last: Use | None = None
    for _ in range(rng.choice((1, 2, 3, 3, 4, 5))):
        last = _exchange(talk, lives, values, last)
    return talk


def _exchange(talk: Talk, lives: list[Live], values: Values, last: Use | None) -> Use | None:
    rng = values.rng
    draw = rng.random()
    if draw < 0.10:
        beside_tools(
            talk, values, " ".join(f"{live.tool.names} {live.tool.about}" for live in lives)
        )
        return None
    if draw < 0.17:
        return _nothing_fits(talk, lives, values)
    if draw < 0.25 and _missing(talk, rng.choice(lives)):
        return None
    if draw < 0.37:
        return _parallel(talk, lives, values)
    if draw < 0.47 and last is not None and len(last.given) == 1:
        use = last.again()
        (said,) = use.given.values()
        talk.user(
            rng.choice(
                (
                    "And {}?",
                    "And what about {}?",
                    "What about {}?",
                    "The same for {}.",
                    "Now {}, please.",
                )
            ).format(said)
        )
    else:
        use = rng.choice(lives).draw()
        talk.user(_manner(use.text(), rng))
    talk.call([use.call()], kind_of([use]))
    result, told = use.result()
    talk.result(result)
    talk.answer(told, "read")
    return use


def kind_of(uses: list[Use]) -> str:
    """What is measured of these calls."""
    return "unseen" if any(use.live.tool.names in UNSEEN for use in uses) else "call"


def _manner(text: str, rng: random.Random) -> str:
    """The same request, said another way."""
    draw = rng.random()
    if draw < 0.06:
        return text[0].lower() + text[1:]
    if draw < 0.12:
        return text.rstrip("?.")
    if draw < 0.17:
        return f"Hi! {text}"
    if draw < 0.21:
        return f"{text.rstrip('.')} please" if text.endswith(".") else f"Please tell me: {text}"
    return text


def _nothing_fits(talk: Talk, lives: list[Live], values: Values) -> None:
    """A request for a tool that is not there."""
    rng = values.rng
    taken = " ".join(f"{live.tool.about} {live.tool.names} {live.schema}" for live in lives).lower()
    if rng.random() < 0.5:
        pool = [
            tool
            for tool in (HELD if values.held else TRAINED)
            if not any(set(tool.names) & set(live.tool.names) for live in lives)
            and not _related(tool, lives)
            and not set(tool.names) & ANSWERED
        ]
    else:
        pool = [
            tool
            for tool in (asked_for(values), made_up(values))
            if not any(word in taken for word in tool.about[0].lower().split()[1:] if len(word) > 3)
        ]
    if not pool:
        return
    use = Live(rng.choice(pool), values).draw()
    talk.user(use.text())
    talk.answer(NO_FIT)


def _related(tool: Tool, lives: list[Live]) -> bool:
    """Whether one of the tools might do in its place."""
    about = " ".join((*tool.about, *tool.names)).lower()
    groups = [group for group in RELATED if any(word in about for word in group.split())]
    others = " ".join(" ".join((*live.tool.about, *live.tool.names)) for live in lives).lower()
    return any(word in others for group in groups for word in group.split())


def _missing(talk: Talk, live: Live) -> bool:
    """A request that leaves out what the tool needs; it is asked for."""
    values, tool = live.values, live.tool
    if len(live.needed) != 1 or set(tool.parameters) != live.needed:
        return False
    (key,) = live.needed
    cuts = [
        line
        for line in tool.ask
        for tail in (f" in {{{key}}}", f" for {{{key}}}", f" on {{{key}}}")
        if tail in line
    ]
    if not cuts:
        return False
    use = live.draw()
    line = values.rng.choice(cuts)
    for word in ("in", "for", "on"):
        line = line.replace(f" {word} {{{key}}}", "")
    talk.user(line)
    talk.answer(f"Please tell me the {live.keys[key].replace('_', ' ')}.")
    talk.user(values.rng.choice(("{}", "{}.", "It is {}.", "{}, please.")).format(use.given[key]))
    talk.call([use.call()], kind_of([use]))
    result, told = use.result()
    talk.result(result)
    talk.answer(told, "read")
    return True


def _parallel(talk: Talk, lives: list[Live], values: Values) -> None:
    """Two or three calls at once, of one tool or of several."""
    rng = values.rng
    same = [live for live in lives if len(live.needed) == 1 and len(live.tool.parameters) >= 1]
    uses: list[Use] = []
    if same and rng.random() < 0.5:
        first = rng.choice(same).draw()
        if len(first.given) == 1:
            uses = [first, first.again()]
            said = [next(iter(use.given.values())) for use in uses]
            if rng.random() < 0.2:
                uses.append(first.again())
                said.append(next(iter(uses[2].given.values())))
            if len(set(said)) < len(said):
                return
            (key,) = first.given
            head, _, tail = first.line.partition(f"{{{key}}}")
            listed = f"{', '.join(map(str, said[:-1]))} and {said[-1]}"
            if rng.random() < 0.3 and head.endswith(" in "):
                listed = listed.replace(" and ", " and in ")
            talk.user(head + listed + tail)
    if not uses and len(lives) >= 2:
        uses = [live.draw() for live in rng.sample(lives, 2)]
        one, two = (use.text() for use in uses)
        lower = two[0].lower() + two[1:] if not two.startswith("I ") else two
        talk.user(
            rng.choice((f"{one} {two}", f"{one.rstrip('.?')}, and {lower}", f"{one} And {lower}"))
        )
    if not uses:
        return
    talk.call([use.call() for use in uses], kind_of(uses))
    told = []
    for use in uses:
        result, text = use.result()
        talk.result(result)
        told.append(text)
    talk.answer(" ".join(told), "read")
