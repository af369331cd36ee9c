#!/usr/bin/env python3
"""Draws the pictures of the chat page in docs/server.md. The model is a script; so are its numbers.

PYTHONPATH=tests python tools/docs/screenshots.py    # needs playwright and chromium
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from page.browsing import Site, started
from serve.scripted import ScriptedEngine

IMAGES = Path(__file__).resolve().parents[2] / "docs/images"
MOST = 150_000  # bytes of a picture
VIEWS: dict[str, Any] = {
    "page-light": {"color_scheme": "light", "viewport": {"width": 900, "height": 720}},
    "page-dark": {"color_scheme": "dark", "viewport": {"width": 900, "height": 720}},
    "page-narrow": {"color_scheme": "light", "viewport": {"width": 320, "height": 640}},
}
QUESTION = "How do I wait for a child process in Python, with a limit of time?"
ANSWER = """<think>
They want subprocess, with a timeout, and no orphan afterwards.
</think>

`Popen.wait` takes a **timeout**. When it runs out, end the child and wait again:

```python
with subprocess.Popen(command) as child:
    try:
        status = child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        status = child.wait()
```

| call | waits for | raises |
|---|---|---|
| `wait` | the end | `TimeoutExpired` |
| `communicate` | the end, and all output | `TimeoutExpired` |

With pipes, use `communicate`: a child whose pipe is full [never ends](https://docs.python.org).
"""


class Posing(ScriptedEngine):
    """Says what an answer of a model that is larger than memory might have taken."""

    def __init__(self) -> None:
        super().__init__({"": ANSWER}, name="qwen3.6-35b-a3b", context=32768)
        self.info = replace(self.info, memory_bytes=12 << 30)

    async def submit(self, job: Any) -> Any:
        """The script's answer, with other numbers."""
        async for delta in super().submit(job):
            if delta.finish is not None:
                usage = replace(
                    delta.usage, prompt=64, cached_memory=31, generated=231, hits=63_415,
                    misses=10_505, read_bytes=17_900_000_000, wait_s=9.4, prefill_s=1.9,
                    decode_s=19.2,
                )  # fmt: skip
                delta = replace(delta, usage=usage)
            yield delta


def draw(browser: Browser, url: str, name: str) -> None:
    """One picture."""
    context = browser.new_context(**VIEWS[name])
    page = context.new_page()
    page.goto(url)
    page.locator("#model", has_text="context").wait_for()
    page.locator("#question").fill(QUESTION)
    page.keyboard.press("Enter")
    page.locator("#talk .told", has_text="tokens/s").wait_for()
    page.locator("#question").blur()
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    assert path.stat().st_size <= MOST, f"{path}: {path.stat().st_size} bytes"
    context.close()


def main() -> None:
    """Draws all of them."""
    IMAGES.mkdir(exist_ok=True)
    site = Site(Posing())
    with sync_playwright() as driver:
        browser = started(driver)
        for name in VIEWS:
            draw(browser, site.url, name)
    site.end()


if __name__ == "__main__":
    main()
