"""Fixed splits of the corpus, derived from code points alone.

Every choice compares a number made from the SHA-256 of a concept's identifier with a share, so the
splits need no random state and are the same on every machine.
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
    """Places a concept in [0, 1) by the first eight bytes of the SHA-256 of its identifier."""
    digest = hashlib.sha256(concept.encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def families(concepts: Iterable[Concept]) -> dict[str, list[Concept]]:
    """Groups concepts by family, in the order given, leaving flags out."""
    found: dict[str, list[Concept]] = defaultdict(list)
    for concept in concepts:
        if concept.group != FLAG_GROUP:
            found[concept.family].append(concept)
    return dict(found)


def components(concept: Concept) -> frozenset[str]:
    """Parts that a held-out combination must share with training: tones and gender form."""
    tones = concept.tones or ("no tone",)
    return frozenset({*tones, concept.gender})


def _held_out_members(members: Sequence[Concept]) -> set[str]:
    """Chooses the held-out members of one family with variants.

    Members are visited by their position in [0, 1) and held out up to the share, each only if
    every component of every held-out member stays with another member in training.
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
    """Assigns every concept to one split, before the design is considered.

    Args:
        concepts: The complete list, in the order of ``emoji-test.txt``.

    Returns:
        From concept identifier to ``flags``, ``unseen_concepts``, ``unseen_combinations`` or
        ``train`` (known).
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
    """Turns the split of a concept into the split of its row in one design.

    Args:
        concept_split: Value of ``concept_splits``.
        design: Name of the design.

    Returns:
        One of ``SPLITS``. Known concepts and flags are training rows except in the design that
        training never sees.
    """
    if concept_split in (UNSEEN_CONCEPTS, UNSEEN_COMBINATIONS):
        return concept_split
    if design != HELD_OUT_DESIGN:
        return TRAIN
    return FLAGS if concept_split == FLAGS else UNSEEN_DESIGN
