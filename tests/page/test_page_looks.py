"""How the page stands: light, dark, narrow, without a mouse, from its own server alone."""

import pytest
from playwright.sync_api import expect

from page.browsing import overhang

TEXT = "# Title\n\nA line.\n\n```py\n" + "x = 1  # " + "long " * 60 + "\n```\n\n" + (
    "| a | b | c | d |\n|--|--|--|--|\n" + "| some words | some words | some words | words |\n" * 3
) + "\n" + "word" * 200  # fmt: skip


def answered(page):
    page.locator("#question").fill("hi")
    page.keyboard.press("Enter")
    expect(page.locator("#talk .told")).to_contain_text("tokens/s")


@pytest.mark.parametrize("width", [320, 768, 1600])
def test_nothing_stands_beyond_the_edge(width, sites, look):
    page = look(sites({"": TEXT}), viewport={"width": width, "height": 700})
    answered(page)
    assert overhang(page) == 0
    for shown in page.locator("button:visible, textarea:visible, .told").all():
        box = shown.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, shown.inner_text()
    page.locator("#open-settings").click()
    box = page.locator("#settings").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width


def brightness(page):
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")) / 3


def test_dark_is_as_the_system_says_or_as_chosen(sites, look):
    site = sites({"": "One."})
    assert brightness(look(site, color_scheme="light")) > 200
    page = look(site, color_scheme="dark")
    assert brightness(page) < 60
    page.locator("#theme").click()
    expect(page.locator("#theme")).to_have_text("Theme: light")
    assert brightness(page) > 200
    page.reload()
    assert brightness(page) > 200
    page.locator("#theme").click()
    page.locator("#theme").click()
    expect(page.locator("#theme")).to_have_text("Theme: auto")
    assert brightness(page) < 60


CONTRAST = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (text) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = parts(text).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (e) => { for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!colour.endsWith(", 0)")) return colour;
  } return "rgb(255, 255, 255)"; };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const isText = (n) => n.nodeType === 3 && n.data.trim();
    if (![...e.childNodes].some(isText) || !e.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.push([e.tagName, e.className, contrast]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_as_wcag_asks(scheme, sites, look):
    """A contrast of 4.5, by the formula of WCAG 2.2."""
    page = look(
        sites({"": f"{TEXT}\n\n[link](https://example.org)\n\n> quote"}), color_scheme=scheme
    )
    answered(page)
    assert page.evaluate(CONTRAST) == []


def test_all_of_it_works_without_a_mouse(sites, look):
    page = look(sites({"": "One."}))
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("a")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("b")
    page.keyboard.press("Enter")
    expect(page.locator("#talk > .user > .text")).to_have_text("a\nb")
    expect(page.locator("#talk .told")).to_contain_text("tokens/s")
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.dataset.action")
        )
    assert {"new", "theme", "open-settings", "edit", "copy", "retry", "question", "send"} <= reached
    page.locator("#open-settings").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#settings")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#settings")).to_be_hidden()


def test_every_control_has_a_name(sites, look):
    page = look(sites({"": "One."}))
    answered(page)
    page.locator("#open-settings").click()
    for kind in ("button", "textbox", "spinbutton", "combobox"):
        for control in page.get_by_role(kind).all():
            assert control.evaluate(
                "e => (e.ariaLabel || e.labels?.[0]?.textContent || e.textContent).trim()"
            )


def test_nothing_comes_from_elsewhere(sites, look, browser):
    site = sites({"": TEXT})
    context = browser.new_context()
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(site.url)
    answered(page)
    context.close()
    assert len(asked) > 8 and all(url.startswith(site.url) for url in asked)


def test_what_is_read_above_is_not_scrolled_away(sites, look):
    page = look(sites({"": "line\n\n" * 60, "more": "line\n\n" * 60}, pause=0.002))
    answered(page)
    assert page.evaluate("scroll => scroll.scrollTop > 100", page.query_selector("#scroll"))
    page.locator("#question").fill("more")
    page.keyboard.press("Enter")
    expect(page.locator("#stop")).to_be_visible()
    page.evaluate("document.getElementById('scroll').scrollTop = 0")
    expect(page.locator("#talk .told").last).to_contain_text("tokens/s")
    assert page.evaluate("document.getElementById('scroll').scrollTop") == 0
