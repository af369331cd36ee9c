"""A server with a scripted model, and a headless Chromium that looks at its page."""

import contextlib

import pytest
from playwright.sync_api import sync_playwright

from page.browsing import Site, started
from serve.scripted import ScriptedEngine


@pytest.fixture
def sites():
    """Makes servers of scripts, which end with the test."""
    with contextlib.ExitStack() as ends:

        def site(script, settings=None, **engine):
            made = Site(ScriptedEngine(script, **engine), **(settings or {}))
            ends.callback(made.end)
            return made

        yield site


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as driver:
        found = started(driver)
        yield found
        found.close()


class Seen:
    """What a page did besides being looked at."""

    def __init__(self):
        self.errors, self.requests = [], []

    def watch(self, page):
        page.on("console", lambda m: m.type in ("error", "warning") and self.errors.append(m.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def look(browser):
    """Opens a server's page in a browser of its own; what went wrong there fails the test."""
    with contextlib.ExitStack() as ends:
        seen = Seen()

        def look(site, *, fine=True, ready="context", before="", **context):
            made = browser.new_context(**context)
            ends.callback(made.close)
            page = made.new_page()
            page.set_default_timeout(20_000)
            page.add_init_script(before)
            if fine:
                seen.watch(page)
            page.goto(site.url)
            page.locator("#model", has_text=ready).wait_for()
            return page

        yield look
        assert seen.errors == []


@pytest.fixture(scope="module")
def module_site():
    """A server for tests that do not ask its model."""
    found = Site(ScriptedEngine({"": "One."}))
    yield found
    found.end()
