"""Parts of the build that need no network."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_modules.emoji import packages
from data_modules.emoji.packages import Annotations, plain

CIRCLE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} 10"><circle cx="5" cy="5" r="5" fill="red"/></svg>'


def test_check_integrity__another_file(tmp_path: Path) -> None:
    archive = tmp_path / "package.tgz"
    archive.write_bytes(b"something else")
    with pytest.raises(packages.FetchError, match=r"package\.tgz does not have the integrity"):
        packages.check_integrity(archive, "sha512-AAAA")


def test_read_packages__pins_are_complete() -> None:
    pins = packages.read_packages()
    assert all(pin["integrity"].startswith("sha512-") and pin["version"] for pin in pins.values())


def test_fetch_packages__without_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(packages.FetchError, match="npm is needed"):
        packages.fetch_packages(tmp_path)


def test_plain__drops_selectors_and_leading_zeros() -> None:
    assert plain("0023-FE0F-20E3") == "23-20e3"


def _annotations(folder: Path, entries: dict[str, object]) -> Annotations:
    packages = {}
    for package, name in (
        ("cldr-annotations-full", "annotations"),
        ("cldr-annotations-derived-full", "annotationsDerived"),
    ):
        path = folder / package / name / "ko"
        path.mkdir(parents=True)
        content = {name: {"annotations": entries}}
        (path / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
        packages[package] = folder / package
    return Annotations(packages, "ko")


def test_find__decomposed_text_and_the_name_among_keywords(tmp_path: Path) -> None:
    entry = {"tts": ["\u1112\u1161\u1110\u1173"], "default": ["하트", "사랑", "사랑"]}
    annotation = _annotations(tmp_path, {"❤": entry}).find("❤️")
    assert (annotation.name, annotation.keywords) == ("하트", ("사랑",))


def test_find__unknown_emoji(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="no ko name for the emoji 🍎"):
        _annotations(tmp_path, {}).find("🍎")


@pytest.mark.parametrize("width", [10, 20])
def test_render__edges_keep_the_colour_of_the_drawing(width: int) -> None:
    render = pytest.importorskip("data_modules.emoji.render", reason="resvg_py is a tool of the build only")
    image = np.asarray(render.rasterise(CIRCLE.format(width)))
    assert image.shape == (72, 72, 4)
    assert image[0, 0, 3] == 0
    edge = (image[..., 3] > 20) & (image[..., 3] < 235)
    assert edge.any()
    assert image[edge][:, 0].min() > 200
    decoded = Image.open(io.BytesIO(render.render(CIRCLE.format(width))))
    assert (decoded.size, decoded.mode) == ((72, 72), "RGBA")
