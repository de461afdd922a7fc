"""`kelip search` in headless Chromium: every tab answers, at two widths, and nothing is asked of another host."""

import contextlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.dashboard.browser import browser_page
from tests.dashboard.screenshot import ScreenshotError, find_browser
from tests.dashboard.search_page import compare_pair, drop_picture, search_analogy, search_words, searching
from tests.paths import ROOT

pytest.importorskip("gradio", reason="gradio is not installed (pip install 'kelip-lightning[demo]')")
BROWSER = ""
with contextlib.suppress(ScreenshotError):
    BROWSER = find_browser()
pytestmark = pytest.mark.skipif(
    not BROWSER, reason="the page needs Chromium, which is not installed (apt install chromium, or set CHROMIUM)"
)

RUN = ROOT / "tests" / "fixtures" / "run_of_e16296c" / "runs" / "finished"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of three colours, with captions."""
    found = tmp_path / "pictures"
    found.mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (40, 30), name).save(found / f"{name}.png")
    (tmp_path / "captions.csv").write_text(
        "key,ko,en\nred.png,빨강,red\ngreen.png,초록,green\nblue.png,파랑,blue\n", encoding="utf-8"
    )
    return found


@pytest.mark.slow
def test_page(folder: Path, tmp_path: Path) -> None:
    words = [str(RUN), str(folder), "--index", str(tmp_path / "index.parquet"), "--device", "cpu"]
    words += ["--captions", str(tmp_path / "captions.csv")]
    with searching(words) as address, browser_page(BROWSER) as page:
        page.open(address, 1280, 900)
        assert search_words(page, "빨강").count("<figure") == 3
        assert "초록 · green" in search_words(page, "red")
        assert compare_pair(page, "빨강", "red").count("kelip-both") == 3
        dropped = drop_picture(page, folder / "blue.png")
        assert dropped.index("한국어") < dropped.index("English")
        assert all(text in dropped for text in ("빨강", "파랑", "blue"))
        assert search_analogy(page, "red", "빨강", "파랑").count("<figure") == 1 + 2
        for width in (1280, 390):
            page.resize(width, 844)
            page.wait_for(f"window.innerWidth === {width}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.querySelectorAll('figcaption')].every(one => one.scrollWidth < 400)")
        hosts = {urlsplit(one).netloc for one in page.requests if one.startswith("http")}
        assert hosts == {urlsplit(address).netloc}
