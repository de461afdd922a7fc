"""Emoji concepts, with their group, family, gender form and skin tones.

A concept is one fully-qualified emoji sequence, written as its code points in lower-case hexadecimal joined by `-`.
Concepts that differ only in skin tones and gender are a family: "man firefighter", "woman firefighter: dark skin tone".
"""

import re
from dataclasses import dataclass
from pathlib import Path

EMOJI_TEST = Path(__file__).with_name("emoji-test.txt")

SKIN_TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
JOINER = "200d"
PRESENTATION = "fe0f"
NEUTRAL = "person"

_SIGNS = {"2640": "woman", "2642": "man"}
# Gendered characters: neutral counterpart and gender form.
_PEOPLE = {
    "1f468": ("1f9d1", "man"),
    "1f469": ("1f9d1", "woman"),
    "1f9d1": ("1f9d1", NEUTRAL),
    "1f466": ("1f9d2", "man"),
    "1f467": ("1f9d2", "woman"),
    "1f9d2": ("1f9d2", NEUTRAL),
    "1f474": ("1f9d3", "man"),
    "1f475": ("1f9d3", "woman"),
    "1f9d3": ("1f9d3", NEUTRAL),
    "1f934": ("1fac5", "man"),
    "1f478": ("1fac5", "woman"),
    "1f930": ("1fac4", "woman"),
    "1fac3": ("1fac4", "man"),
    "1f57a": ("1f57a", "man"),
    "1f483": ("1f57a", "woman"),
}
# Single characters with variants that are sequences.
_LONE = {
    "1f385": ("1f9d1-1f384", "man"),
    "1f936": ("1f9d1-1f384", "woman"),
    "1f46b": ("1f9d1-1f91d-1f9d1", "woman-man"),
    "1f46c": ("1f9d1-1f91d-1f9d1", "man-man"),
    "1f46d": ("1f9d1-1f91d-1f9d1", "woman-woman"),
    "1f48f": ("1f9d1-2764-1f48b-1f9d1", "person-person"),
    "1f491": ("1f9d1-2764-1f9d1", "person-person"),
    "1f46a": ("1f9d1-1f9d1-1f9d2", NEUTRAL),
}
_RENAMED = {"1faf1-1faf2": "1f91d"}  # a handshake of two tones is a sequence of two hands

_LINE = re.compile(r"^(?P<codes>[0-9A-F ]+?) *; fully-qualified *# (?P<emoji>\S+) E[\d.]+ ")


@dataclass(frozen=True)
class Concept:
    """One emoji sequence of `emoji-test.txt`."""

    codes: tuple[str, ...]
    """Code points in lower-case hexadecimal."""
    group: str
    """For example `Food & Drink`."""
    subgroup: str
    """For example `food-fruit`."""

    @property
    def concept(self) -> str:
        """Identifier shared by all designs, for example `1f469-1f3fd-200d-1f692`."""
        return "-".join(self.codes)

    @property
    def emoji(self) -> str:
        """The characters themselves."""
        return "".join(chr(int(code, 16)) for code in self.codes)

    @property
    def tones(self) -> tuple[str, ...]:
        """Skin tones in order; two equal tones count once, as in one-character couples."""
        found = tuple(code for code in self.codes if code in SKIN_TONES)
        return found[:1] if len(set(found)) == 1 else found

    @property
    def family(self) -> str:
        """Code points without skin tones, gender, joiners and presentation selectors."""
        return _family_and_gender(self.codes)[0]

    @property
    def gender(self) -> str:
        """Gender form, for example `woman` or `woman-man`; `person` without gender."""
        return _family_and_gender(self.codes)[1]


def _family_and_gender(codes: tuple[str, ...]) -> tuple[str, str]:
    """The identifier of a sequence's family and its gender form."""
    dropped = {*SKIN_TONES, JOINER, PRESENTATION}
    kept = [code for code in codes if code not in dropped]
    if len(kept) == 1 and kept[0] in _LONE:
        return _LONE[kept[0]]
    signs = [_SIGNS[code] for code in kept[1:] if code in _SIGNS]
    people = [_PEOPLE[code][1] for code in kept if code in _PEOPLE]
    plain = [_PEOPLE.get(code, (code,))[0] for position, code in enumerate(kept) if position == 0 or code not in _SIGNS]
    family = "-".join(plain)
    gender = "-".join(signs or people) or NEUTRAL
    return _RENAMED.get(family, family), gender


def read_concepts(path: Path = EMOJI_TEST) -> list[Concept]:
    """The fully-qualified emoji, flags included, of a file in the format of Unicode's `emoji-test.txt`, in its order.

    Raises:
        ValueError: The file lists no fully-qualified emoji.
    """
    concepts, group, subgroup = [], "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ").strip()
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ").strip()
        elif match := _LINE.match(line):
            codes = tuple(match["codes"].lower().split())
            concepts.append(Concept(codes, group, subgroup))
    if not concepts:
        raise ValueError(f"{path} lists no fully-qualified emoji.")
    return concepts
