"""Questions in the forms of forms.txt, and how they are said."""

from data import read, table
from dialogue import Talk
from values import Values

FORMS = table(read("forms.txt"))


def say(talk: Talk, values: Values, name: str, answer: str, **given: object) -> None:
    """A question in one of the forms of that name, now and then in another manner, answered."""
    rng = values.rng
    text = rng.choice(FORMS[name].split("|")).format(**given)
    text = text[0].upper() + text[1:]
    draw = rng.random()
    if draw < 0.08:
        text = text.rstrip("?.")
    elif draw < 0.14 and not text.startswith("I "):
        text = text[0].lower() + text[1:]
    elif draw < 0.18:
        text = f"Hi! {text}"
    elif draw < 0.22 and text.endswith("."):
        text = f"{text[:-1]}, please."
    talk.user(text)
    talk.answer(answer)
