"""The pinned npm packages of the corpus: fetched, and their names, keywords and drawings read."""

import base64
import hashlib
import json
import logging
import re
import subprocess
import tarfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_modules.emoji.concepts import PRESENTATION, SKIN_TONES

PACKAGES = Path(__file__).with_name("packages.json")
Drawings = dict[str, str]
"""Plain code points (no presentation selectors, no leading zeros) -> SVG document."""

_LOG = logging.getLogger(__name__)
_CLDR_FILES = (("cldr-annotations-full", "annotations"), ("cldr-annotations-derived-full", "annotationsDerived"))
_SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {}>{}</svg>'
_TONE_NAMES = ("light", "medium-light", "medium", "medium-dark", "dark")
# The flat set has this icon, but not in its character list.
_POINTING_RIGHT = "backhand-index-pointing-right"
# Names of the flat set -> differing file names of the modern set.
_MODERN_NAMES = {"piata": "pinata", "stuffed-flatbread": "stuffedbread"}


class FetchError(RuntimeError):
    """A package could not be fetched, or is not the pinned one."""


def read_packages() -> dict[str, dict[str, str]]:
    """Package name -> pinned `version` and `integrity`."""
    pins: dict[str, dict[str, str]] = json.loads(PACKAGES.read_text(encoding="utf-8"))
    return pins


def _pack(spec: str, folder: Path) -> Path:
    """Download one package archive into a new folder."""
    folder.mkdir(parents=True)
    command = ["npm", "pack", spec, "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    except FileNotFoundError as error:
        raise FetchError("npm is needed to build the corpus: install Node.js.") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines() or ["npm gave no reason"]
        raise FetchError(f"npm could not fetch {spec}: {reason[-1]}") from error
    archives = list(folder.glob("*.tgz"))
    if len(archives) != 1:
        raise FetchError(f"npm pack {spec} left {len(archives)} archives instead of one.")
    return archives[0]


def check_integrity(archive: Path, expected: str) -> None:
    """Compare an archive with its pinned integrity: `sha512-` and the digest in base 64, as in npm.

    Raises:
        FetchError: The file differs.
    """
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode("ascii")
    if f"sha512-{digest}" != expected:
        raise FetchError(f"{archive.name} does not have the integrity pinned in packages.json.")


def fetch_packages(folder: Path) -> dict[str, Path]:
    """Fetch, check and unpack every pinned package below a folder; package name -> its unpacked folder.

    Raises:
        FetchError: A package cannot be fetched or is not the pinned one.
    """
    unpacked = {}
    for index, (name, pin) in enumerate(read_packages().items()):
        spec = f"{name}@{pin['version']}"
        _LOG.info("fetching %s", spec)
        archive = _pack(spec, folder / f"archive-{index}")
        check_integrity(archive, pin["integrity"])
        target = folder / f"package-{index}"
        with tarfile.open(archive) as content:
            content.extractall(target, filter="data")
        unpacked[name] = target / "package"
        archive.unlink()
    return unpacked


@dataclass(frozen=True)
class Annotation:
    """Name of an emoji in one language, and its keywords without the name (NFC)."""

    name: str
    keywords: tuple[str, ...]


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


class Annotations:
    """Names and keywords of emoji in one language (a CLDR code such as `ko`), from the unpacked packages."""

    def __init__(self, packages: dict[str, Path], language: str) -> None:
        self._language = language
        self._entries: dict[str, dict[str, list[str]]] = {}
        for package, folder in _CLDR_FILES:
            path = packages[package] / folder / language / "annotations.json"
            content = json.loads(path.read_text(encoding="utf-8"))
            self._entries.update(content[folder]["annotations"])

    def find(self, emoji: str) -> Annotation:
        """The annotation of an emoji, with or without presentation selectors.

        Raises:
            KeyError: CLDR has no name for the emoji.
        """
        entry = self._entries.get(emoji) or self._entries.get(emoji.replace("\ufe0f", ""))
        if entry is None or not entry.get("tts"):
            raise KeyError(f"CLDR has no {self._language} name for the emoji {emoji}.")
        name = _nfc(entry["tts"][0])
        unique = dict.fromkeys(_nfc(word) for word in entry.get("default", []))
        return Annotation(name, tuple(word for word in unique if word and word != name))


@dataclass(frozen=True)
class Design:
    """One design of the corpus."""

    name: str
    """Name of the design and of its file."""
    packages: tuple[str, ...]
    """npm packages with its drawings."""
    licence: str
    """SPDX identifier of the drawings' licence."""
    credit: str
    """Attribution that copies must keep."""
    load: Callable[[dict[str, Path]], Drawings]
    """Reads the drawings from the unpacked packages."""


def plain(codes: str) -> str:
    """Normalise code points joined by `-` to `Drawings` keys."""
    parts = [code.lstrip("0") for code in codes.lower().split("-")]
    return "-".join(part for part in parts if part != PRESENTATION)


def _named_by_codes(folder: Path) -> Drawings:
    """The SVG files of a folder, named by code points."""
    files = sorted(folder.glob("*.svg"))
    return {plain(file.stem): file.read_text(encoding="utf-8") for file in files}


def _icon_svg(icons: dict[str, Any], name: str) -> str | None:
    """The SVG document of one icon of an Iconify set; `None` if the set lacks it."""
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
    """The character list of an Iconify set: plain code points -> icon name."""
    chars = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    return {plain(codes): name for codes, name in chars.items()}


def _icons(folder: Path, names: dict[str, str]) -> Drawings:
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    found = {codes: _icon_svg(icons, name) for codes, name in names.items()}
    return {codes: svg for codes, svg in found.items() if svg is not None}


def _sprite(path: Path) -> Drawings:
    """The nested `svg` elements of a sprite, each with code points as its id."""
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
    """Icon names of Fluent Emoji, shared by the flat and the modern set."""
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
    Design("twemoji", ("@twemoji/svg",), "CC-BY-4.0", "Twemoji, Twitter, Inc and other contributors", _twemoji),
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
