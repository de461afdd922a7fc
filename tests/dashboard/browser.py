"""A headless Chromium, steered over its debugging pipe; the standard library is enough."""

import base64
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# Chromium reads commands from descriptor 3 and answers on 4; the shell puts our pipes there.
_LAUNCH = 'exec "$0" "$@" 3<&{commands} 4>&{answers}'
_SETTLE_SECONDS = 1.5

# TensorBoard's pages are nested shadow trees, which querySelector does not enter.
_FIND = """
function find(selector, text, root = document) {
  for (const one of root.querySelectorAll("*")) {
    if (one.matches(selector) && one.textContent.includes(text)) return one;
    const inside = one.shadowRoot && find(selector, text, one.shadowRoot);
    if (inside) return inside;
  }
  return null;
}
"""


class BrowserError(RuntimeError):
    """The browser died, refused a command or did not show a page in time."""


class Page:
    """One tab."""

    def __init__(self, browser: "Browser", session: str, seconds: float) -> None:
        """Takes the tab's session; `seconds` is the patience with everything on it."""
        self._browser = browser
        self._session = session
        self._seconds = seconds

    def wait_for(self, selector: str, text: str = "") -> None:
        """Wait until an element that matches, in whatever shadow tree, is there.

        Raises:
            BrowserError: It does not come.
        """
        deadline = time.monotonic() + self._seconds
        while not self._evaluate(f"{_FIND} find({json.dumps(selector)}, {json.dumps(text)}) !== null"):
            if time.monotonic() > deadline:
                raise BrowserError(f"the page shows no '{selector}' after {self._seconds:.0f} s")
            time.sleep(0.5)

    def click(self, selector: str, text: str = "") -> None:
        """Click the first element that matches and holds the text."""
        self.wait_for(selector, text)
        self._evaluate(f"{_FIND} find({json.dumps(selector)}, {json.dumps(text)}).click()")

    def settled_picture(self) -> bytes:
        """The page as PNG, once two pictures in a row are the same.

        Raises:
            BrowserError: It keeps changing.
        """
        deadline, before = time.monotonic() + self._seconds, b""
        while True:
            picture = base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
            if picture == before:
                return picture
            if time.monotonic() > deadline:
                raise BrowserError(f"the page still changes after {self._seconds:.0f} s")
            before = picture
            time.sleep(_SETTLE_SECONDS)

    def _evaluate(self, expression: str) -> Any:
        # In a block of its own, so that the function can be declared again.
        answer = self._call("Runtime.evaluate", expression=f"{{{expression}}}")
        return answer["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)


class Browser:
    """A running Chromium; made by `running`."""

    def __init__(self, commands: int, answers: int) -> None:
        """Takes the ends of the two pipes that stay on this side."""
        self._commands = commands
        self._answers = answers
        self._buffer = b""
        self._calls = 0

    def open(self, address: str, window: tuple[int, int], seconds: float) -> Page:
        """A tab on the address, `window` pixels wide and high, two device pixels to each."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        size = {"width": window[0], "height": window[1], "deviceScaleFactor": 2, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", session, **size)
        self.call("Page.navigate", session, url=address)
        return Page(self, session, seconds)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result.

        Raises:
            BrowserError: The browser is gone or refuses.
        """
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._send(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") != self._calls:
                continue  # an event
            if "error" in answer:
                raise BrowserError(f"{method}: {answer['error']['message']}")
            result: dict[str, Any] = answer["result"]
            return result

    def _send(self, message: bytes) -> None:
        try:
            while message:
                message = message[os.write(self._commands, message) :]
        except BrokenPipeError as error:
            raise BrowserError("the browser ended; start it by hand to see why") from error

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            received = os.read(self._answers, 1 << 20)
            if not received:
                raise BrowserError("the browser ended; start it by hand to see why")
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def running(path: str) -> Iterator[Browser]:
    """Start the Chromium at `path` with a profile of its own; it ends with the block."""
    their_commands, our_commands = os.pipe()
    our_answers, their_answers = os.pipe()
    script = _LAUNCH.format(commands=their_commands, answers=their_answers)
    # A browser that is being ended may still write to its profile.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = ["bash", "-c", script, path, *FLAGS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            command, pass_fds=(their_commands, their_answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(their_commands)
        os.close(their_answers)
        try:
            yield Browser(our_commands, our_answers)
        finally:
            process.terminate()
            process.wait()
            os.close(our_commands)
            os.close(our_answers)
