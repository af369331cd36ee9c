"""The page as the server sends it: its files, their headers, and who gets them.

What it does in a browser is tested by tests/page (make page-test).
"""

import re
from html.parser import HTMLParser

import pytest

from moeflux.serve.api.page import FOLDER, TYPES
from serve.asking import ask
from serve.scripted import ScriptedEngine

FILES = sorted(path.name for path in FOLDER.iterdir())
PATHS = ["/", *(f"/page/{name}" for name in FILES)]


def get(path, method="GET", headers=None, **settings):
    return ask(ScriptedEngine(), path, method=method, headers=headers, **settings)


@pytest.mark.parametrize("path", PATHS)
def test_a_file_of_the_page_is_sent_with_its_type_and_a_strict_policy(path):
    answer = get(path, api_keys=("secret",))  # a browser has no key before there is a page
    assert answer.status_code == 200
    name = "index.html" if path == "/" else path.removeprefix("/page/")
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"] == TYPES[f".{name.partition('.')[2]}"]
    policy = answer.headers["content-security-policy"]
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["default-src"] == directives["frame-ancestors"] == "'none'"
    assert {directives[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {
        "'self'"
    }
    assert directives["require-trusted-types-for"] == "'script'"
    assert not re.search(r"unsafe|\*|data:|http", policy)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_head_of_the_page_has_no_body():
    answer = get("/", "HEAD")
    assert answer.status_code == 200 and answer.content == b""


def test_a_file_that_has_not_changed_is_not_sent_again():
    tag = get("/page/chat.js").headers["etag"]
    again = get("/page/chat.js", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert get("/page/chat.js", headers={"if-none-match": '"x"'}).status_code == 200


OTHERS = ["/page/", "/page/no.js", "/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py",
          "/page/%2fetc%2fpasswd", "/page/page/chat.js"]  # fmt: skip


@pytest.mark.parametrize("path", OTHERS)
def test_nothing_but_the_page_is_sent(path):
    answer = get(path)
    assert answer.status_code == 404 and "nothing is here" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/page/chat.js"])
def test_the_page_is_this_servers_alone(path):
    assert get(path, headers={"host": "evil.example"}).status_code == 403
    assert get(path, headers={"origin": "https://evil.example"}).status_code == 403


def test_without_the_page_a_line_says_what_is_here():
    answer = get("/", page=False)
    assert answer.headers["content-type"].startswith("text/plain") and "/v1" in answer.text
    assert get("/page/chat.js", page=False).status_code == 404


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_has_all_that_it_names_and_nothing_inline():
    tags = Tags((FOLDER / "index.html").read_text()).found
    attributes = [(tag, *item) for tag, attrs in tags for item in attrs.items()]
    assert not [a for a in attributes if a[1] == "style" or a[1].startswith("on")]
    assert [attrs.get("src") for tag, attrs in tags if tag in ("script", "style")] == [
        "page/chat.js"
    ]
    named = {value for _, name, value in attributes if name in ("src", "href")}
    scripts = {path.name: path.read_text() for path in FOLDER.glob("*.js")}
    imports = {f"page/{name}" for text in scripts.values()
               for name in re.findall(r'^import .* from "\./([\w.]+)";$', text, re.M)}  # fmt: skip
    assert named | imports == {f"page/{name}" for name in FILES if name != "index.html"}


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_host_or_parses_html(name):
    text = (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://\w|@import|url\(|innerHTML|outerHTML|insertAdjacent|\beval\b"
                         r"|document\.write|new Function", text)  # fmt: skip


def test_the_page_is_small():
    assert sum((FOLDER / name).stat().st_size for name in FILES) < 60_000
