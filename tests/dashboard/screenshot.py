"""Photographs TensorBoard's pages with headless Chromium.

`python -m tests.dashboard.screenshot --logdir runs --output runs/dashboard` writes `train.png`,
`evaluation.png`, `images.png` and `hyperparameters.png`. Chromium is taken from $CHROMIUM or the path;
nothing is downloaded.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.dashboard.browser import Browser, BrowserError, running


@dataclass(kw_only=True, slots=True, frozen=True)
class View:
    """A page of TensorBoard, and how to know that it is there."""

    fragment: str
    """What follows the # of the address."""
    element: str
    """CSS selector of something that the loaded page holds."""
    tick: str = ""
    """Label of a checkbox to tick first."""


VIEWS = {
    "train": View(fragment="scalars&tagFilter=%5Etrain&_smoothingWeight=0", element="vz-line-chart2"),
    "evaluation": View(fragment="scalars&tagFilter=%5Eeval&_smoothingWeight=0", element="vz-line-chart2"),
    # Shrunk to the width of a card, the captions of a panel would be too small to read.
    "images": View(fragment="images", element="img", tick="Show actual image size"),
    "hyperparameters": View(fragment="hparams", element="tf-hparams-table-view"),
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_SECONDS = 180


class ScreenshotError(RuntimeError):
    """A picture cannot be made; the message says what to install or check."""


def find_browser() -> str:
    """Path of a Chromium.

    Raises:
        ScreenshotError: None is installed.
    """
    for name in (os.environ.get("CHROMIUM", ""), *BROWSERS):
        path = shutil.which(name) if name else None
        if path is not None:
            return path
    raise ScreenshotError("no Chromium found: install it (apt install chromium) or set CHROMIUM to its path")


@contextmanager
def serving(logdir: Path) -> Iterator[str]:
    """TensorBoard's address while it serves the folder on a free port of this machine."""
    command = [sys.executable, "-m", "tensorboard.main", "--host=localhost", "--port=0", f"--logdir={logdir}"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield _address(process, log.fileno())
        finally:
            process.terminate()
            process.wait()


def _address(process: "subprocess.Popen[bytes]", log: int) -> str:
    """Wait until TensorBoard has written its address to the log."""
    for _ in range(TIMEOUT_SECONDS):
        text = os.pread(log, 1 << 20, 0).decode(errors="replace")
        found = re.search(r"http://localhost:\d+/", text)
        if found:
            return found.group()
        try:
            process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            continue
        break
    raise ScreenshotError(f"TensorBoard did not start:\n{text}")


def photograph(browser: Browser, address: str, view: View, window: tuple[int, int]) -> bytes:
    """One page as a PNG, two device pixels to each of the `window` (width, height)."""
    page = browser.open(f"{address}#{view.fragment}", window, TIMEOUT_SECONDS)
    page.wait_for(view.element)
    if view.tick:
        page.click("paper-checkbox", view.tick)
    return page.settled_picture()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the options, photograph every page, print where the pictures are."""
    parser = argparse.ArgumentParser(description="Photograph TensorBoard's pages with headless Chromium.")
    parser.add_argument("--logdir", type=Path, default=Path("runs"), help="folder of TensorBoard files")
    parser.add_argument("--output", type=Path, default=Path("runs/dashboard"), help="folder for the pictures")
    parser.add_argument("--window", type=int, nargs=2, default=(1600, 1800), metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args(arguments)
    if not any(options.logdir.rglob("events.out.tfevents.*")):
        print(f"{options.logdir} holds no TensorBoard files: run `make pretrain` first", file=sys.stderr)
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        path = find_browser()
        with serving(options.logdir) as address, running(path) as browser:
            for name, view in VIEWS.items():
                picture = options.output / f"{name}.png"
                picture.write_bytes(photograph(browser, address, view, tuple(options.window)))
                print(picture)
    except (ScreenshotError, BrowserError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
