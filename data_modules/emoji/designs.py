"""The drawings of each design, found in the fetched packages by code points."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_modules.emoji.concepts import PRESENTATION, SKIN_TONES

Drawings = dict[str, str]
"""From plain code points (no presentation selectors, no leading zeros) to an SVG document."""

_SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {}>{}</svg>'
_TONE_NAMES = ("light", "medium-light", "medium", "medium-dark", "dark")
# In the character list of the flat set this icon is missing although it is drawn.
_POINTING_RIGHT = "backhand-index-pointing-right"
# Two drawings have another file name in the modern set than in the flat one.
_MODERN_NAMES = {"piata": "pinata", "stuffed-flatbread": "stuffedbread"}


@dataclass(frozen=True)
class Design:
    """One design of the corpus.

    Attributes:
        name: Name of the design and of its file.
        packages: npm packages that hold its drawings.
        licence: SPDX identifier of the licence of the drawings.
        credit: Attribution that must stay with copies.
        load: Reads the drawings from the unpacked packages.
    """

    name: str
    packages: tuple[str, ...]
    licence: str
    credit: str
    load: Callable[[dict[str, Path]], Drawings]


def plain(codes: str) -> str:
    """Normalises code points joined by ``-`` to the form that every package agrees on."""
    parts = [code.lstrip("0") for code in codes.lower().split("-")]
    return "-".join(part for part in parts if part != PRESENTATION)


def _named_by_codes(folder: Path) -> Drawings:
    """Reads a folder of SVG files named by code points."""
    files = sorted(folder.glob("*.svg"))
    return {plain(file.stem): file.read_text(encoding="utf-8") for file in files}


def _icon_svg(icons: dict[str, Any], name: str) -> str | None:
    """Builds the document of one icon of an Iconify set, or None where the set lacks it."""
    mirrored = False
    while alias := icons.get("aliases", {}).get(name):
        mirrored ^= alias.get("hFlip", False)
        name = alias["parent"]
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    body = icon["body"]
    if mirrored:
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    view = f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}"'
    return _SVG.format(view, body)


def _icon_names(folder: Path) -> dict[str, str]:
    """Reads the character list of an Iconify set: from plain code points to icon name."""
    chars = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    return {plain(codes): name for codes, name in chars.items()}


def _icons(folder: Path, names: dict[str, str]) -> Drawings:
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    found = {codes: _icon_svg(icons, name) for codes, name in names.items()}
    return {codes: svg for codes, svg in found.items() if svg is not None}


def _sprite(path: Path) -> Drawings:
    """Cuts a sprite of nested ``svg`` elements, each with code points as its id."""
    opening = re.compile(r'<svg ([^>]*)\bid="([0-9A-F]{2,}(?:-[0-9A-F]+)*)"([^>]*)>')
    text = path.read_text(encoding="utf-8")
    starts = list(opening.finditer(text))
    ends = [match.start() for match in starts[1:]] + [text.rindex("</svg>")]
    return {
        plain(match[2]): text[match.start() : end]
        .strip()
        .replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
        for match, end in zip(starts, ends, strict=True)
    }


def _noto(packages: dict[str, Path]) -> Drawings:
    """Noto Emoji; the Iconify set has no country flags, so those come from the sprite."""
    sprite = _sprite(packages["@svgmoji/noto"] / "sprites" / "all.svg")
    folder = packages["@iconify-json/noto"]
    flags = {codes: svg for codes, svg in sprite.items() if re.match(r"1f1|1f3f4-e00", codes)}
    return flags | _icons(folder, _icon_names(folder))


def _flat_names(packages: dict[str, Path]) -> dict[str, str]:
    """Icon names of Fluent Emoji, which the flat and the modern set share."""
    names = _icon_names(packages["@iconify-json/fluent-emoji-flat"])
    toned = zip(SKIN_TONES, _TONE_NAMES, strict=True)
    extra = {f"1f449-{code}": f"{_POINTING_RIGHT}-{tone}" for code, tone in toned}
    return names | {"1f449": _POINTING_RIGHT} | extra


def _fluent_flat(packages: dict[str, Path]) -> Drawings:
    return _icons(packages["@iconify-json/fluent-emoji-flat"], _flat_names(packages))


def _fluent(packages: dict[str, Path]) -> Drawings:
    folder = packages["fluentui-emoji"] / "icons" / "modern"
    drawings = {}
    for codes, name in _flat_names(packages).items():
        stem = _MODERN_NAMES.get(name, name)
        for file in (folder / f"{stem}.svg", folder / f"{stem}-default.svg"):
            if file.is_file():
                drawings[codes] = file.read_text(encoding="utf-8")
    return drawings


def _twemoji(packages: dict[str, Path]) -> Drawings:
    return _named_by_codes(packages["@twemoji/svg"])


def _emojione(packages: dict[str, Path]) -> Drawings:
    return _named_by_codes(packages["emojione"] / "assets" / "svg")


DESIGNS = (
    Design(
        "noto",
        ("@iconify-json/noto", "@svgmoji/noto"),
        "Apache-2.0",
        "Noto Emoji, Google LLC and contributors; flags from the public-domain region-flags set",
        _noto,
    ),
    Design(
        "twemoji",
        ("@twemoji/svg",),
        "CC-BY-4.0",
        "Twemoji, Twitter, Inc and other contributors",
        _twemoji,
    ),
    Design("fluent", ("fluentui-emoji",), "MIT", "Fluent Emoji, Microsoft Corporation", _fluent),
    Design(
        "fluent_flat",
        ("@iconify-json/fluent-emoji-flat",),
        "MIT",
        "Fluent Emoji (flat), Microsoft Corporation",
        _fluent_flat,
    ),
    Design("emojione", ("emojione",), "CC-BY-4.0", "EmojiOne 2, Ranks.com Inc", _emojione),
)
