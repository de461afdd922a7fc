"""Screenshots of the page of `kelip search`, taken by headless Chromium.

`python -m tests.dashboard.search_page MODEL DATA --output runs/search` writes the page with an answer in each tab at
1280 and at 390 pixels: `words-1280.png`, `words-390.png`, ... Options of `kelip search` follow DATA.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.dashboard.browser import BrowserPage, browser_page
from tests.dashboard.screenshot import ScreenshotError, find_browser

WINDOWS = {1280: 900, 390: 844}
"""Width -> height."""


@contextmanager
def searching(words: Sequence[str]) -> Iterator[str]:
    """Run `kelip search` with these words; yields the address of its page.

    Raises:
        ScreenshotError: It ends; with its output.
    """
    command = [sys.executable, "-m", "kelip_lightning", "search", *words, "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.match(r"http://\S+", line):
                yield found.group()
                return
        raise ScreenshotError(f"kelip search ended:\n{''.join(lines)}")
    finally:
        process.terminate()
        process.wait()


def search_words(page: BrowserPage, text: str) -> str:
    """Search by a text; the result's HTML."""
    page.type("#words textarea, #words input", text)
    page.click("#words-go")
    return _changed(page, "#words-result", "kelip-score")


def compare_pair(page: BrowserPage, first: str, second: str) -> str:
    """Compare two words; the right result's HTML."""
    page.choose_tab("Two words")
    page.type("#pair-first textarea, #pair-first input", first)
    page.type("#pair-second textarea, #pair-second input", second)
    page.click("#pair-go")
    return _changed(page, "#pair-right", "kelip-score")


def drop_picture(page: BrowserPage, file: Path) -> str:
    """Give the page a picture; the result's HTML."""
    page.choose_tab("그림")
    page.choose_file("#picture input[type=file]", file)
    return _changed(page, "#picture-result", "kelip-score")


def search_analogy(page: BrowserPage, words: str, minus: str, plus: str) -> str:
    """Search for picture − word + word; the result's HTML."""
    page.choose_tab("word + word")
    for name, text in (("words", words), ("minus", minus), ("plus", plus)):
        page.type(f"#analogy-{name} textarea, #analogy-{name} input", text)
    page.click("#analogy-go")
    return _changed(page, "#analogy-result", "kelip-score")


def _changed(page: BrowserPage, selector: str, mark: str) -> str:
    """The HTML of a result once it has its mark and its pictures are loaded."""
    page.wait_for(f"document.querySelector({selector!r}).innerHTML.includes({mark!r})")
    page.wait_for(f"[...document.querySelectorAll({selector + ' img'!r})].every(one => one.complete)")
    return str(page.evaluate(f"document.querySelector({selector!r}).innerHTML"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the options, ask a question in every tab, and print the path of every screenshot."""
    parser = argparse.ArgumentParser(description="Take screenshots of the page of kelip search.")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--picture", type=Path, required=True, help="the picture that is dropped")
    parser.add_argument("--output", type=Path, default=Path("runs/search"), help="folder for the pictures")
    options, more = parser.parse_known_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        with searching([options.model, options.data, *more]) as address, browser_page(find_browser()) as page:
            page.open(address, 1280, WINDOWS[1280])
            questions = {
                "words": lambda: search_words(page, "비행기"),
                "pair": lambda: compare_pair(page, "집", "a house"),
                "picture": lambda: drop_picture(page, options.picture),
                "analogy": lambda: search_analogy(page, "a red heart", "빨간색", "파란색"),
            }
            for name, ask in questions.items():
                page.resize(1280, WINDOWS[1280])
                ask()
                for width, height in WINDOWS.items():
                    page.resize(width, height)
                    page.wait_for("new Promise(done => setTimeout(() => done(true), 500))")
                    picture = options.output / f"{name}-{width}.png"
                    page.save_screenshot(picture)
                    print(picture)
    except ScreenshotError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
