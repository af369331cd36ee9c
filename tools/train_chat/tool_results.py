"""Results of keys that nobody knows, and how they are told."""

from data import LISTS
from dialogue import dumps
from values import Values

KEYS = LISTS["keys"]
KEY_KINDS = {
    "status": "choice:ok|done|ready|failed|open",
    "name": "person",
    "owner": "full_name",
    "state": "choice:on|off|idle|busy",
    "code": "code",
    "date": "date",
    "time": "time",
    "city": "city",
    "color": "colour",
    "type": "word",
    "unit": "choice:kg|km|s|m|C",
    "temp": "int:-9:38",
    "sky": "choice:clear|cloudy|dark",
    "title": "title",
    "author": "full_name",
    "language": "language",
    "host": "host",
    "path": "path",
    "file": "path",
    "url": "url",
    "start": "time",
    "end": "time",
    "begin": "time",
    "summary": "sentence",
    "text": "sentence",
    "content": "sentence",
    "day": "weekday",
    "message": "sentence",
    "reason": "sentence",
    "category": "topic",
    "label": "word",
    "brand": "company",
    "price": "amount",
    "fee": "amount",
    "balance": "amount",
    "mode": "choice:auto|manual|eco",
    "country": "choice:France|Peru|Japan|Kenya",
    "format": "choice:A4|mp3|pdf|raw",
    "id": "code",
    "level": "percent",
    "chance": "percent",
    "rating": "few",
    "answer": "word",
    "rain": "bool",
}
LISTED = {
    "files": "path",
    "cities": "city",
    "names": "person",
    "items": "thing",
    "tags": "word",
    "users": "full_name",
    "results": "title",
    "events": "topic",
    "colors": "colour",
    "matches": "path",
    "ids": "code",
    "numbers": "number",
}


def plain_result(values: Values) -> tuple[str, str]:
    """A result of keys that nobody knows, told key by key."""
    rng = values.rng
    if rng.random() < 0.15:
        key, kind = rng.choice(list(LISTED.items()))
        key = key if rng.random() < 0.6 else f"{values.plain()}s"
        items = [values.draw(kind) for _ in range(rng.choice((2, 2, 3, 4)))]
        bare = rng.random() < 0.3
        joined = f"{', '.join(map(str, items[:-1]))} and {items[-1]}"
        told = f"The result is {joined}." if bare else f"The {key} are {joined}."
        return dumps(items if bare else {key: items}), told
    keys = rng.sample(KEYS, rng.choice((1, 1, 2, 2, 3, 4)))
    if rng.random() < 0.5:
        keys[-1] = values.invented()
    if rng.random() < 0.4:
        keys[0] = values.plain() if rng.random() < 0.7 else f"{values.plain()}_{values.plain()}"
    if rng.random() < 0.2 or keys == ["status"]:
        keys[0] = f"{rng.choice(('total', 'new', 'last', 'max'))}_{keys[0]}"
    got = {key: values.draw(KEY_KINDS.get(key, "number")) for key in keys}
    if rng.random() < 0.1:
        got[keys[-1]] = values.draw("bool")
    shown = {key: str(v).lower() if isinstance(v, bool) else v for key, v in got.items()}
    parts = [f"the {key.replace('_', ' ')} is {value}" for key, value in shown.items()]
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return dumps(got), f"{text[0].upper()}{text[1:]}."
