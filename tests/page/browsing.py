"""A server with a scripted model in this process, and how Chromium is started to look at it."""

import asyncio
import os
import shutil
import threading

import uvicorn

from moeflux.serve.app import create_app
from moeflux.serve.run import bind
from moeflux.serve.settings import Settings

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


class Site:
    """A server: its engine, and its address."""

    def __init__(self, engine, **settings):
        self.engine = engine
        self._listener = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        app = create_app({engine.info.name: engine}, Settings(**settings))
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._loop = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        async def serve():
            self._loop = asyncio.get_running_loop()
            await self._server.serve([self._listener])

        asyncio.run(serve())

    def release(self):
        """Lets an engine that holds its answers go on."""
        self._loop.call_soon_threadsafe(self.engine.hold.set)

    def end(self):
        self._server.should_exit = True
        self._thread.join(30)


def overhang(page):
    """Pixels by which the page, or the talk in it, is wider than what is seen of it."""
    return page.evaluate(
        "Math.max(...[document.documentElement, document.getElementById('scroll')]"
        ".map((e) => e.scrollWidth - e.clientWidth))"
    )


def started(driver):
    """A browser without windows."""
    return driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
