"""Fixed splits of the corpus, derived from code points alone.

A concept is held out if a hash of its identifier is below a share: no random state, the same splits on every machine.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from data_modules.emoji.concepts import Concept

TRAIN = "train"
UNSEEN_DESIGN = "unseen_design"
FLAGS = "flags"
UNSEEN_CONCEPTS = "unseen_concepts"
UNSEEN_COMBINATIONS = "unseen_combinations"
SPLITS = (TRAIN, UNSEEN_DESIGN, FLAGS, UNSEEN_CONCEPTS, UNSEEN_COMBINATIONS)

FLAG_GROUP = "Flags"
HELD_OUT_DESIGN = "noto"

CONCEPT_SHARE = 0.05
COMBINATION_SHARE = 0.10


def position(concept: str) -> float:
    """A hash of a concept in [0, 1): the first eight bytes of the SHA-256 of its identifier."""
    digest = hashlib.sha256(concept.encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def families(concepts: Iterable[Concept]) -> dict[str, list[Concept]]:
    """Group concepts by family, in order, without flags."""
    found: dict[str, list[Concept]] = defaultdict(list)
    for concept in concepts:
        if concept.group != FLAG_GROUP:
            found[concept.family].append(concept)
    return dict(found)


def components(concept: Concept) -> frozenset[str]:
    """Tones and gender form: parts of a held-out combination that must occur in training."""
    tones = concept.tones or ("no tone",)
    return frozenset({*tones, concept.gender})


def _held_out_members(members: Sequence[Concept]) -> set[str]:
    """The held-out members of one family with variants.

    Members are visited in the order of their hash and held out up to the share, if every component of every held-out
    member occurs in another member in training.
    """
    left = Counter(part for member in members for part in components(member))
    chosen: set[str] = set()
    limit = round(len(members) * COMBINATION_SHARE)
    for member in sorted(members[1:], key=lambda item: position(item.concept)):
        if len(chosen) == limit:
            break
        parts = components(member)
        if all(left[part] > 1 for part in parts):
            chosen.add(member.concept)
            left.subtract(parts)
    return chosen


def concept_splits(concepts: Sequence[Concept]) -> dict[str, str]:
    """Concept identifier -> `flags`, `unseen_concepts`, `unseen_combinations` or `train`, for all designs together.

    Args:
        concepts: All concepts, in the order of `emoji-test.txt`.
    """
    splits = {item.concept: FLAGS if item.group == FLAG_GROUP else TRAIN for item in concepts}
    for members in families(concepts).values():
        if len(members) == 1:
            if position(members[0].concept) < CONCEPT_SHARE:
                splits[members[0].concept] = UNSEEN_CONCEPTS
        else:
            splits.update(dict.fromkeys(_held_out_members(members), UNSEEN_COMBINATIONS))
    return splits


def row_split(concept_split: str, design: str) -> str:
    """The split, of `SPLITS`, of a concept's row in one design.

    Concepts of `train` and `flags` are training rows except in the design that is held out from training.
    """
    if concept_split in (UNSEEN_CONCEPTS, UNSEEN_COMBINATIONS):
        return concept_split
    if design != HELD_OUT_DESIGN:
        return TRAIN
    return FLAGS if concept_split == FLAGS else UNSEEN_DESIGN
