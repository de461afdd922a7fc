"""Whether a Korean and an English word of the same meaning retrieve different images; choices between texts.

Shapes: P word pairs, C control pairs among them, M images of the gallery, N questions, T texts of all questions,
E embedding width.

For every pair: the overlap of the top-k images of both words, the rank correlation over the whole gallery, and the
test of `divergence`, whether the two words differ more than the model's languages do in general.

A word that the model does not know retrieves images too, and two such words disagree by chance. So a pair differs only
if both words are known: the best image of a known word scores higher than those of 95% of nonsense words, which are
made of the same characters. Whether a difference between two known words is cultural, the images must show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from data_modules.benchmarks.word_pairs import WordPair
from data_modules.errors import DataError
from data_modules.languages import LANGUAGES
from kelip_lightning.analyses.divergence import divergence_test
from kelip_lightning.analyses.output import Finding, Findings, Item, number
from kelip_lightning.evaluation.embed import require_finite
from kelip_lightning.statistics import ALPHA
from kelip_lightning.statistics.bootstrap import Bootstrap
from kelip_lightning.statistics.multiplicity import holm

MIN_CONTROLS = 20
"""The test needs more: against fewer than 20 others, no control pair can rank in the top 5%."""

ALL_TOPICS = "all pairs"
CONTROLS = "control pairs"
KNOWN = "pairs of known words"
DIFFERENCE = "all pairs − control pairs"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairImages:
    """Gallery indices of the top-k images of each pair, int64 (P, k), for plots."""

    ko: Tensor
    en: Tensor


def compare_words(
    pairs: Sequence[WordPair],
    words: Mapping[str, Tensor],
    nonsense: Mapping[str, Tensor],
    gallery: Tensor,
    bootstrap: Bootstrap,
    top: int = 10,
    num_draws: int = 9999,
) -> tuple[Findings, PairImages]:
    """Overlap, correlation and test of every pair, and their means by topic.

    Args:
        pairs: P word pairs, more than `MIN_CONTROLS` of them control pairs.
        words: `ko` and `en` -> (P, E) unit rows of the words.
        nonsense: `ko` and `en` -> (P', E) unit rows of nonsense words, as `nonsense_words` makes them.
        gallery: (M, E) unit rows of the images.
        bootstrap: Resampling of pairs, and the seed of the test's null distribution.
        top: The k of the overlap of the top-k images; at most M.
        num_draws: Samples of the null distribution per pair; 1 / (num_draws + 1) is the smallest p-value.

    Returns:
        One item per pair, means over all pairs, control pairs and topics; each pair's top-k images.

    Raises:
        DataError: There are too few control pairs or images; see `check_enough`.
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    check_enough(pairs, len(gallery), top)
    for language in LANGUAGES:
        require_finite(words[language], f"{language} word")
    require_finite(gallery, "image")
    control = np.array([pair.control for pair in pairs])
    offset = (words["en"] - words["ko"])[torch.from_numpy(control)].mean(dim=0)
    overlap, correlation, images = _retrieved(words["ko"], words["en"], gallery, top)
    moved_overlap, _, _ = _retrieved(words["ko"] + offset, words["en"], gallery, top)
    rows = {language: words[language].double().numpy() for language in LANGUAGES}
    test = divergence_test(rows["ko"], rows["en"], gallery, control, bootstrap.seed, num_draws)
    columns: dict[str, Sequence[float | bool]] = {
        f"overlap_top{top}": overlap.tolist(),
        f"overlap_top{top}_offset_removed": moved_overlap.tolist(),
        "rank_correlation": correlation.tolist(),
        "known_ko": is_known(words["ko"], nonsense["ko"], gallery).tolist(),
        "known_en": is_known(words["en"], nonsense["en"], gallery).tolist(),
        "divergence": test.divergence.tolist(),
        "rank_among_controls_p": test.rank_p_value.tolist(),
        "p": test.p_value.tolist(),
    }
    items: list[Item] = [
        {
            "topic": pair.topic,
            "ko": pair.ko,
            "en": pair.en,
            "control": pair.control,
            **{name: values[place] for name, values in columns.items()},
        }
        for place, pair in enumerate(pairs)
    ]
    _judge(items)
    return Findings(summary=_summary(items, bootstrap, top), items=items, statements=_statements(items)), images


def _judge(items: Sequence[Item]) -> None:
    """Add the Holm-adjusted p-value, `None` for control pairs, and the verdict."""
    tested = [item for item in items if not item["control"]]
    adjusted = iter(holm([number(item, "p") for item in tested]))
    for item in items:
        p_holm = None if item["control"] else next(adjusted)
        beyond = p_holm is not None and p_holm <= ALPHA and number(item, "rank_among_controls_p") <= ALPHA
        item["known"] = bool(item["known_ko"] and item["known_en"])
        item["p_holm"] = p_holm
        item["beyond_gap"] = beyond
        item["differs"] = beyond and item["known"]
        item["verdict"] = _verdict(item, beyond)


def _verdict(item: Item, beyond: bool) -> str:
    if item["control"]:
        return "control pair"
    if not item["known"]:
        return "a word is not known"
    return "differs" if beyond else "no difference beyond the language gap"


def is_known(words: Tensor, nonsense: Tensor, gallery: Tensor) -> Tensor:
    """Whether the best image of a word scores higher than those of at least 95% of nonsense words.

    Args:
        words: (P, E) unit rows.
        nonsense: (P', E) unit rows.
        gallery: (M, E) unit rows of the images.

    Returns:
        (P,) bool.

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    for rows, what in ((words, "word"), (nonsense, "nonsense word"), (gallery, "image")):
        require_finite(rows, what)
    best = (words @ gallery.T).amax(dim=1)
    best_nonsense = (nonsense @ gallery.T).amax(dim=1)
    return (best_nonsense[None, :] >= best[:, None]).double().mean(dim=1) <= ALPHA


def check_enough(pairs: Sequence[WordPair], num_images: int, top: int) -> None:
    """Check the inputs of the comparison.

    Raises:
        DataError: There are too few control pairs for the test, no other pair, or fewer than `top` images.
    """
    num_controls = sum(pair.control for pair in pairs)
    if num_controls <= MIN_CONTROLS or num_controls == len(pairs):
        raise DataError(
            f"word_pairs holds {num_controls} control pairs of {len(pairs)}; the test needs at least "
            f"{MIN_CONTROLS + 1}, and a pair to test: add some"
        )
    if num_images < top:
        raise DataError(f"top = {top} needs as many images, and the gallery has {num_images}; lower top")


def _retrieved(ko: Tensor, en: Tensor, gallery: Tensor, top: int) -> tuple[Tensor, Tensor, PairImages]:
    """(P,) overlap of the `top` nearest images, (P,) Spearman correlation over the gallery, and those images.

    The correlation is of the uncentred vectors: it is invariant to a constant shift of one word's scores, but not to
    the offset between the languages.
    """
    overlaps, correlations, first = [], [], []
    for ko_row, en_row in zip(ko, en, strict=True):
        scores = torch.stack([gallery @ ko_row, gallery @ en_row])
        indices = scores.topk(top, dim=1).indices
        first.append(indices)
        overlaps.append(torch.isin(indices[0], indices[1]).double().mean())
        # If all images score alike under a word, the correlation is undefined and counts as 0.
        correlations.append(torch.corrcoef(torch.from_numpy(rankdata(scores, axis=1)))[0, 1].nan_to_num(0.0))
    images = torch.stack(first)
    return torch.stack(overlaps), torch.stack(correlations), PairImages(ko=images[:, 0], en=images[:, 1])


def _summary(items: list[Item], bootstrap: Bootstrap, top: int) -> list[Finding]:
    tested = [item for item in items if not item["control"]]
    groups = {ALL_TOPICS: tested, CONTROLS: [item for item in items if item["control"]]}
    known = [item for item in tested if item["known"]]
    groups |= {KNOWN: known} if known else {}
    topics = dict.fromkeys(str(item["topic"]) for item in tested)
    groups |= {topic: [item for item in tested if item["topic"] == topic] for topic in topics}
    headline = (f"overlap_top{top}", "known")
    found = []
    for measure in (*headline, f"overlap_top{top}_offset_removed", "rank_correlation", "divergence"):
        values = {name: np.array([number(item, measure) for item in members]) for name, members in groups.items()}
        intervals = [(name, bootstrap.mean(one), len(one)) for name, one in values.items()]
        difference = bootstrap.unpaired_difference(values[ALL_TOPICS], values[CONTROLS])
        found += [
            Finding(subject=name, measure=measure, interval=interval, count=count, headline=measure in headline)
            for name, interval, count in [*intervals, (DIFFERENCE, difference, len(items))]
        ]
    return found


def _statements(items: list[Item]) -> list[str]:
    tested = [item for item in items if not item["control"]]
    controls = [item for item in items if item["control"]]
    known = [item for item in tested if item["known"]]
    known_controls = sum(bool(item["known"]) for item in controls)
    differing = sorted((item for item in known if item["differs"]), key=lambda item: number(item, "p"))
    beyond = sum(bool(item["beyond_gap"]) for item in tested)
    low = sum(number(item, "p") <= ALPHA for item in controls)
    named = ", ".join(f"{item['ko']}/{item['en']}" for item in differing)
    return [
        f"Both words of {len(known)} of {len(tested)} pairs (and of {known_controls} of {len(controls)} control pairs) "
        "are known: their best images score higher than those of 95% of nonsense words. Of the other pairs nothing "
        "is claimed.",
        f"{len(differing)} of these {len(known)} pairs differ beyond the languages' overall gap (Holm-corrected "
        f"over all {len(tested)} at {ALPHA:.0%})" + (f": {named}." if named else "."),
        f"Of the pairs with a word that is not known, {beyond - len(differing)} lie beyond that gap too, which two "
        "words without meaning to the model do by themselves.",
        f"Check of the test: {low} of {len(controls)} control pairs have p <= {ALPHA:.2f} uncorrected; no more "
        f"than about {ALPHA * len(controls):.0f} are expected.",
    ]


def choice_findings(
    name: str, images: Tensor, options: Tensor, num_options: Sequence[int], answers: Sequence[int], bootstrap: Bootstrap
) -> Findings:
    """Accuracy of multiple choice between texts for an image, by cosine similarity, with its interval and chance level.

    A tie with a wrong text counts as wrong, so a collapsed model has accuracy 0.

    Args:
        name: Of the set.
        images: (N, E) unit rows, one per question.
        options: (T, E) unit rows of all questions' texts, in the order of the questions.
        num_options: Number of texts of each question, at least 2; their sum is T.
        answers: Index of each question's correct text among its own.
        bootstrap: Resampling of questions.

    Raises:
        ValueError: Sizes do not fit.
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    if len(images) != len(num_options) or len(answers) != len(num_options) or sum(num_options) != len(options):
        raise ValueError(
            f"{len(images)} images, {len(answers)} answers and {sum(num_options)} options do not fit "
            f"{len(num_options)} questions with {len(options)} texts"
        )
    require_finite(images, "image")
    require_finite(options, "text")
    items: list[Item] = []
    for place, (image, texts) in enumerate(zip(images, torch.split(options, list(num_options)), strict=True)):
        scores = texts @ image
        answer = answers[place]
        others = torch.cat([scores[:answer], scores[answer + 1 :]])
        items.append(
            {
                "set": name,
                "question": place,
                "answer": answer,
                "chosen": int(scores.argmax()),
                "right": bool(scores[answer] > others.max()),
            }
        )
    interval = bootstrap.mean([bool(item["right"]) for item in items])
    chance = sum(1 / count for count in num_options) / len(num_options)
    finding = Finding(subject=name, measure="accuracy", interval=interval, count=len(items), chance=chance)
    verdict = "beats" if interval.low > chance else "does not measurably beat"
    statement = f"{name}: the choice among texts {verdict} guessing ({interval.value:.3f} against {chance:.3f})."
    return Findings(summary=[finding], items=items, statements=[statement])
