"""What a model writes, shown: as markdown-it shows it, and nothing but text where it is hostile."""

import asyncio
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import expect

from page.browsing import overhang

SHOW = """async (text) => {
  const { show } = await import("/page/markdown.js");
  const place = document.createElement("div");
  show(place, text);
  return place.innerHTML;
}"""
GROW = """async (text) => {
  const { show } = await import("/page/markdown.js");
  const grown = document.createElement("div");
  for (let end = 1; end <= text.length; end += 1) {
    const whole = document.createElement("div");
    show(grown, text.slice(0, end));
    show(whole, text.slice(0, end));
    if (grown.innerHTML !== whole.innerHTML) return [end, grown.innerHTML, whole.innerHTML];
  }
  return null;
}"""
SAME = [
    "One line.\nAnother of it.\n\nA second paragraph.",
    "**bold**, *slanted*, _slanted_, __bold__, ~~gone~~ and `code`",
    "**bold with `code` and *both* in it**",
    "snake_case_name, 2 * 3 * 4, a*b, ** no **, *no",
    "`` a ` b ``, `a`b`, ```` ` ````, ` x `, unclosed ` here",
    "a \\*star\\* and a \\\\ and \\[no link\\](x)",
    "- one\n- two\n- three",
    "1. one\n2. two\n\ntext",
    "3. three\n4. four",
    "- one\n  - inner\n  - inner two\n- two\n  goes on",
    "* star\n\n  its second paragraph\n* another",
    "> quoted\n> *words*\n>\n> - a list\n> - in it\n\nafter",
    "---\n\ntext\n\n***",
    "[a link](https://example.org/a_(b)) and <https://example.org/x> and [m](mailto:a@example.org)",
    '[titled](https://example.org "A title"), [**bold** name](https://example.org)',
    "[no] (relative), [no][ref], ![",
    "| a | b |\n|---|---|\n| 1 | `x` |\n| 2 \\| 3 | **y** |\n\nafter",
    "a | b\n:-- | --:\n1 | 2",
    "not | a table\n\nat all | here",
    "<b>bold</b> & <script>alert(1)</script> &amp; &lt;",
    "a * b\n\n- - -\n\nc",
    "line\n- list right after",
    "5 > 4 and 3 < 4",
]  # fmt: skip


class Outline(HTMLParser):
    """A page as tags, links and words, without what is ours or a matter of taste."""

    TASTE = ("div", "p", "thead", "tbody")

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        kept = {name: value for name, value in attrs if name in ("href", "start")}
        self._add(tag, tuple(kept.items()))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        self._add(f"/{tag}", ())

    def _add(self, tag, attrs):
        name = {"s": "del", "/s": "/del"}.get(tag, tag)
        if name.lstrip("/") not in (*self.TASTE, "br"):
            self.found.append((name, attrs))

    def handle_data(self, data):
        words = " ".join(data.split())
        if words and self.found and isinstance(self.found[-1], str):
            self.found[-1] += " " + words
        elif words:
            self.found.append(words)


@pytest.fixture(scope="module")
def page(browser, module_site):
    made = browser.new_context()
    found = made.new_page()
    found.goto(module_site.url)
    yield found
    made.close()


@pytest.mark.parametrize("text", SAME)
def test_markdown_is_what_markdown_it_makes_of_it(text, page):
    other = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    assert Outline(page.evaluate(SHOW, text)).found == Outline(other.render(text)).found


def test_an_address_in_the_text_is_a_link_without_the_mark_behind_it(page):
    shown = page.evaluate(SHOW, "see https://example.org/a_b_c?d=1&e, or (http://example.org).")
    found = [part for part in Outline(shown).found if part[0] == "a"]
    assert found == [
        ("a", (("href", "https://example.org/a_b_c?d=1&e"),)),
        ("a", (("href", "http://example.org"),)),
    ]


NO_LINKS = [
    "[a](relative)", "[a](/v1/models)", "[a](javascript:b)", "[a](data:text/html,b)", "[a]()",
    "![a](javascript:b)", "<javascript:b>", "<data:b>", "[a](http://)", "javascript:b",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_LINKS)
def test_links_that_do_not_lead_to_the_web_are_text(text, page):
    assert Outline(page.evaluate(SHOW, text)).found == [text]


def test_headings_are_below_those_of_the_page(page):
    shown = page.evaluate(SHOW, "# One #\n## Two\n###### Six\n#no")
    assert shown == "<h2>One</h2><h3>Two</h3><h6>Six</h6><p>#no</p>"


@pytest.mark.parametrize(
    "text", ["```py\nif a < b:\n\n    c()\n```", "~~~ py\nif a < b:\n\n    c()"]
)
def test_code_is_as_it_was_written(text, page):
    shown = page.evaluate(SHOW, text)
    assert "<pre><code>if a &lt; b:\n\n    c()</code></pre>" in shown and "<span>py</span>" in shown


GROWING = (
    "# T\n\nA *b* `c`\n\n- d\n- e\n  - f\n\n```py\ng = 1\n\nh\n```\n\n"
    "| i | j |\n|--|--|\n| k | l |\n\n> m\n\nn"
)


@pytest.mark.parametrize("text", [GROWING, "\n\n".join(SAME), "\n".join(SAME)])
def test_a_text_that_grows_is_shown_as_the_whole_at_every_length(page, text):
    assert page.evaluate(GROW, text) is None


HOSTILE = """<script>window.pwned = 1</script>
<img src=x onerror="window.pwned = 2"> <svg onload="window.pwned = 3"></svg>

<iframe src="javascript:parent.pwned = 4"></iframe><base href="https://evil.example/">
<style>body { display: none }</style><meta http-equiv="refresh" content="0;url=http://x/">

[c](javascript:window.pwned=5) [c](JaVaScRiPt:window.pwned=6) [c](java\tscript:window.pwned=7)
[click](data:text/html,<script>window.pwned=8</script>) [c](vbscript:x) [c](file:///etc/passwd)
![picture](https://evil.example/p.png) ![p](javascript:window.pwned=9) <javascript:window.pwned=10>

| <script>window.pwned = 11</script> | b |
|---|---|
| <img src=x onerror=window.pwned=12> | [x](javascript:window.pwned=13) |

```html"><script>window.pwned=14</script>
</code></pre><script>window.pwned = 15</script>
```

[a"onclick="window.pwned=16](https://example.org/"onclick="window.pwned=17)
"""


def test_hostile_text_is_shown_and_does_nothing(sites, look):
    long = "x" * 2_500 + "\n\n" + "`" + "y" * 500 + "`\n\n```\n" + "z" * 500 + "\n```"
    site = sites({"": f"{HOSTILE}\n{long}"}, hold=asyncio.Event())
    page = look(site, viewport={"width": 320, "height": 640})
    page.locator("#question").fill("<img src=x onerror='window.pwned = 20'>")
    page.keyboard.press("Enter")
    site.release()
    expect(page.locator("#talk .told")).to_contain_text("tokens/s")
    expect(page.locator("#talk > .user > .text")).to_contain_text("<img src=x")
    answer = page.locator("#talk > .assistant > .markdown")
    expect(answer).to_contain_text("<script>window.pwned = 1</script>")
    for link in page.locator("#talk a").all():
        link.evaluate("a => { a.onclick = (e) => e.preventDefault(); a.click(); }")
    hrefs = [link.get_attribute("href") for link in page.locator("#talk a").all()]
    assert hrefs and all(re.match("https?://", href) for href in hrefs), hrefs
    assert page.evaluate("window.pwned") is None
    assert page.locator("#talk :is(script, img, svg, iframe, style, base, meta)").count() == 0
    assert page.locator("script").count() == 1
    assert overhang(page) == 0
    assert page.evaluate(
        "[...document.querySelectorAll('#talk *')]"
        ".every((e) => ![...e.attributes].some((a) => a.name.startsWith('on')))"
    )


PILES = [
    "[" * 50_000, "*" * 50_000, "_a" * 30_000, "`" * 30_000, "[a](" * 20_000, "> " * 20_000,
    "- " * 20_000, "**a " * 20_000, "\\" * 50_000, "|" * 50_000 + "\n" + "|-" * 25_000,
    "\n".join("- a" for _ in range(5_000)), "\n".join("a | b" for _ in range(5_000)),
    "\n".join(" " * i + "- a" for i in range(500)), "<http://" * 10_000, "~~" * 20_000 + "a",
    "".join("`" * i + " " for i in range(190)), "*a **b " * 2_800, "![[](" * 3_900,
    "\n".join("`" * i + " x" for i in range(3, 190)), "http://a" * 2_400, "_" * 19_999,
]  # fmt: skip


@pytest.mark.parametrize("text", PILES, ids=range(len(PILES)))
def test_a_pile_of_marks_is_shown_in_time(text, page):
    """A browser that hangs fails at the end of the driver's patience."""
    page.set_default_timeout(20_000)
    assert len(page.evaluate(SHOW, text)) > 1000


def refused(page, attempt):
    """What the page's policy says to an attempt; "" where it says nothing."""
    return page.evaluate(
        """(attempt) => new Promise((end) => {
          document.onsecuritypolicyviolation = (e) => end(`${e.violatedDirective} ${e.blockedURI}`);
          setTimeout(() => end(""), 5000);
          const element = document.createElement(attempt.name);
          try {
            Object.assign(element, attempt.fields);
            document.body.append(element);
          } catch {}
        })""",
        attempt,
    )


ATTEMPTS = [
    ("div", {"innerHTML": "<b>bold</b>"}, "require-trusted-types-for trusted-types-sink"),
    ("script", {"src": "data:text/javascript,"}, "require-trusted-types-for trusted-types-sink"),
    ("img", {"src": "https://evil.example/p.png"}, "img-src https://evil.example/p.png"),
    ("img", {"src": "data:image/png;base64,"}, "img-src data"),
    ("link", {"rel": "stylesheet", "href": "https://evil.example/"}, "style-src-elem https://evil"),
    ("iframe", {"src": "https://evil.example/"}, "frame-src https://evil.example"),
]


@pytest.mark.parametrize(("name", "fields", "says"), ATTEMPTS)
def test_the_policy_holds_where_the_renderer_would_not(name, fields, says, page):
    assert refused(page, {"name": name, "fields": fields}).startswith(says)
