"""Names and keywords of emoji from Unicode CLDR."""

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

_FILES = (
    ("cldr-annotations-full", "annotations"),
    ("cldr-annotations-derived-full", "annotationsDerived"),
)
_SELECTOR = "\ufe0f"


@dataclass(frozen=True)
class Annotation:
    """What one language calls an emoji: its name, and keywords other than the name (NFC)."""

    name: str
    keywords: tuple[str, ...]


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


class Annotations:
    """Annotations of one language.

    Args:
        packages: From package name to the folder it was unpacked in.
        language: CLDR language code, such as ``ko``.
    """

    def __init__(self, packages: dict[str, Path], language: str) -> None:
        self._language = language
        self._entries: dict[str, dict[str, list[str]]] = {}
        for package, folder in _FILES:
            path = packages[package] / folder / language / "annotations.json"
            content = json.loads(path.read_text(encoding="utf-8"))
            self._entries.update(content[folder]["annotations"])

    def find(self, emoji: str) -> Annotation:
        """Finds the annotation of an emoji, with or without presentation selectors.

        Raises:
            KeyError: If the language has no name for the emoji.
        """
        entry = self._entries.get(emoji) or self._entries.get(emoji.replace(_SELECTOR, ""))
        if entry is None or not entry.get("tts"):
            raise KeyError(f"CLDR has no {self._language} name for the emoji {emoji}.")
        name = _nfc(entry["tts"][0])
        unique = dict.fromkeys(_nfc(word) for word in entry.get("default", []))
        return Annotation(name, tuple(word for word in unique if word and word != name))
