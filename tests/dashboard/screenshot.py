"""Screenshots of TensorBoard's pages, taken by headless Chromium.

`python -m tests.dashboard.screenshot --logdir runs --output runs/dashboard` writes a picture of every page of `PAGES`,
as TensorBoard shows it by default: `first.png` is what opens without a choice, `overview.png` the Custom Scalars.

Chromium is $CHROMIUM or the first of `BROWSERS` on the path.
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
from pathlib import Path

PAGES = {
    "first": "",
    "overview": "custom_scalars",
    "training": "scalars&tagFilter=%5E(mae%7Ccontrastive)%2F&_smoothingWeight=0",
    "evaluation": "scalars&tagFilter=%5Eeval%2F&_smoothingWeight=0",
    "images": "images",
    "hyperparameters": "hparams",
}
"""Name of the picture -> fragment of the address."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars")
LOADING_MILLISECONDS = 30_000
"""Virtual time: timers run at once, and the clock stands still while requests are pending."""
TIMEOUT_SECONDS = 180


class ScreenshotError(RuntimeError):
    """No picture can be taken; the message names what to install or check."""


def find_browser() -> str:
    """Path of a Chromium.

    Raises:
        ScreenshotError: None is installed.
    """
    for name in (os.environ.get("CHROMIUM", ""), *BROWSERS):
        if path := shutil.which(name):
            return path
    raise ScreenshotError("no Chromium found: install it (apt install chromium) or set CHROMIUM to its path")


@contextmanager
def serving(logdir: Path) -> Iterator[str]:
    """Serve the folder with TensorBoard on a free local port; yields the address."""
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


def take_screenshot(browser: str, address: str, picture: Path, window: tuple[int, int]) -> None:
    """Write the page as PNG, `window` (width, height) CSS pixels of two device pixels each.

    Raises:
        ScreenshotError: The browser fails or does not end in time.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            browser,
            *FLAGS,
            f"--user-data-dir={profile}",
            "--force-device-scale-factor=2",
            f"--window-size={window[0]},{window[1]}",
            f"--virtual-time-budget={LOADING_MILLISECONDS}",
            f"--screenshot={picture.resolve()}",
            address,
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ScreenshotError(f"Chromium did not finish {address} in {TIMEOUT_SECONDS} s") from error
        except subprocess.CalledProcessError as error:
            raise ScreenshotError(f"Chromium failed on {address}:\n{error.stderr}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the options, take a screenshot of every page and print its path."""
    parser = argparse.ArgumentParser(description="Take screenshots of TensorBoard's pages with headless Chromium.")
    parser.add_argument("--logdir", type=Path, default=Path("runs"), help="folder of TensorBoard files")
    parser.add_argument("--output", type=Path, default=Path("runs/dashboard"), help="folder for the pictures")
    parser.add_argument("--window", type=int, nargs=2, default=(1600, 1800), metavar=("WIDTH", "HEIGHT"))
    options = parser.parse_args(arguments)
    if not any(options.logdir.rglob("events.out.tfevents.*")):
        print(f"{options.logdir} holds no TensorBoard files: run `make pretrain` first", file=sys.stderr)
        return 1
    try:
        browser = find_browser()
        options.output.mkdir(parents=True, exist_ok=True)
        with serving(options.logdir) as address:
            for name, fragment in PAGES.items():
                picture = options.output / f"{name}.png"
                take_screenshot(browser, f"{address}#{fragment}", picture, tuple(options.window))
                print(picture)
    except ScreenshotError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
