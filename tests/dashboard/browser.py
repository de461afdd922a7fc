"""A page in headless Chromium, driven over its DevTools protocol."""

import asyncio
import base64
import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.dashboard.screenshot import FLAGS, ScreenshotError

START_SECONDS, WAIT_SECONDS = 60.0, 60.0


class BrowserPage:
    """One tab."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._number = loop, socket, 0
        self.requests: list[str] = []
        """Addresses that the tab has asked for."""
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self._call(f"{domain}.enable")

    def open(self, address: str, width: int, height: int) -> None:
        """Load a page in a window of this size, in CSS pixels."""
        self.resize(width, height)
        self._call("Page.navigate", url=address)

    def resize(self, width: int, height: int) -> None:
        """Change the window, as a phone's below 500 pixels."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def evaluate(self, script: str) -> Any:
        """The value of an expression."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The value of an expression once it is true.

        Raises:
            AssertionError: It is not within `WAIT_SECONDS`; with the text of the page.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if value := self.evaluate(script):
                return value
            time.sleep(0.1)
        raise AssertionError(f"{script} is not true; the page reads: {self.evaluate('document.body.innerText')!r}")

    def type(self, selector: str, text: str) -> None:
        """Replace the text of a field."""
        self.wait_for(f"document.querySelector({selector!r}) !== null")
        self.evaluate(f"(() => {{const one = document.querySelector({selector!r}); one.focus(); one.select();}})()")
        self._call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click an element."""
        self.wait_for(f"document.querySelector({selector!r}) !== null")
        self.evaluate(f"document.querySelector({selector!r}).click()")

    def choose_tab(self, title: str) -> None:
        """Click the tab whose title has these characters."""
        # The first of them is a copy that measures the width; in a narrow window the others are in a menu.
        tabs = f"[...document.querySelectorAll('[role=tab]')].filter(one => one.textContent.includes({title!r}))"
        self.wait_for(f"{tabs}.length > 0")
        self.evaluate(f"{tabs}.forEach(one => one.click())")

    def choose_file(self, selector: str, file: Path) -> None:
        """Give a file to an upload field."""
        self.wait_for(f"document.querySelector({selector!r}) !== null")
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def save_screenshot(self, picture: Path) -> None:
        """What the window shows, as PNG."""
        picture.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(asyncio.wait_for(self._answer(method, parameters), WAIT_SECONDS))

    async def _answer(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json()
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self._number:
                if "error" in message:
                    raise ScreenshotError(f"{method}: {message['error']['message']}")
                result: dict[str, Any] = message["result"]
                return result


@contextmanager
def browser_page(browser: str) -> Iterator[BrowserPage]:
    """A tab of a new Chromium, which ends with the context.

    Raises:
        ScreenshotError: Chromium does not start.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        loop = asyncio.new_event_loop()
        try:
            yield from _connected(loop, Path(profile) / "DevToolsActivePort")
        finally:
            loop.close()
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()
            process.wait()


def _connected(loop: asyncio.AbstractEventLoop, port_file: Path) -> Iterator[BrowserPage]:
    deadline = time.monotonic() + START_SECONDS
    while not (port_file.is_file() and port_file.read_text(encoding="utf-8").strip()):
        if time.monotonic() > deadline:
            raise ScreenshotError(f"Chromium did not start within {START_SECONDS:g} s")
        time.sleep(0.1)
    port = port_file.read_text(encoding="utf-8").split()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=START_SECONDS) as answer:
        tabs = json.load(answer)
    address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
    session = loop.run_until_complete(_session())
    try:
        socket = loop.run_until_complete(session.ws_connect(address, max_msg_size=0))
        yield BrowserPage(loop, socket)
    finally:
        loop.run_until_complete(session.close())


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()
