"""Similarity of Korean and English captions of the same meaning.

Shapes: N captions per language, M images, E embedding width; all rows of unit length.

Two confounders are controlled. Captions of one language share an offset from those of the other (the language gap),
which affects every similarity alike; so similarities are also computed after centring, see `centre`. And untrained
encoders already embed shared characters (digits, Latin letters) similarly, so a model is compared on the same captions
with a control: the same architecture with fresh weights.

Reference: Liang et al. 2022, Mind the Gap (arXiv:2203.02053), for the distance between means as a gap.
"""

from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from data_modules.languages import LANGUAGES
from kelip_lightning.analyses.output import Finding, Findings, Item
from kelip_lightning.evaluation.embed import require_finite
from kelip_lightning.evaluation.metric_names import RECALL_KS
from kelip_lightning.evaluation.ranks import retrieval_ranks
from kelip_lightning.evaluation.translations import centre, matched_and_random
from kelip_lightning.statistics.bootstrap import Bootstrap

CONTROL = "untrained control"
"""Suffix of the subject of the control's findings."""

HEADLINE = (
    "ko_to_en_R@1",
    "en_to_ko_R@1",
    "ko_to_en_R@5",
    "en_to_ko_R@5",
    "matched, centred",
    "random, centred",
    "matched − random, centred",
)
"""Measures of the short table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionSimilarity:
    """Per-item outcomes of one model on one caption set; each (N,) float64 or int64."""

    ranks: dict[str, Tensor]
    """`ko_to_en`, `en_to_ko`: rank of the translation, 0 is best."""
    matched: Tensor
    """Cosine of each caption and its translation."""
    random: Tensor
    """Mean cosine of each caption and the translations of all others, both directions averaged."""


def caption_similarity(features: dict[str, Tensor], *, centred: bool = False) -> CaptionSimilarity:
    """Ranks and similarities of parallel captions.

    Args:
        features: `ko` and `en` -> (N, E) unit rows, N at least 2.
        centred: Whether the features are centred first.

    Raises:
        ValueError: Languages or shapes do not fit.
    """
    if set(features) != set(LANGUAGES) or len({one.shape for one in features.values()}) != 1:
        shapes = {language: tuple(one.shape) for language, one in features.items()}
        raise ValueError(f"captions must be given in {' and '.join(LANGUAGES)}, row by row alike, got {shapes}")
    if len(features["ko"]) < 2:
        raise ValueError("at least two captions are needed to compare a translation with others")
    rows = {language: centre(one.double()) if centred else one.double() for language, one in features.items()}
    target = torch.arange(len(rows["ko"]))
    ranks = {
        f"{source}_to_{other}": retrieval_ranks(rows[source], rows[other], target)
        for source, other in permutations(LANGUAGES, 2)
    }
    matched, random = matched_and_random(rows["ko"], rows["en"])
    return CaptionSimilarity(ranks=ranks, matched=matched, random=random)


def caption_findings(
    name: str,
    captions: dict[str, list[str]],
    features: dict[str, Tensor],
    control_features: dict[str, Tensor],
    bootstrap: Bootstrap,
) -> Findings:
    """Metrics of a model and its untrained control on one caption set, and their paired differences.

    Args:
        name: Of the caption set.
        captions: Language -> N texts.
        features: Language -> (N, E) unit rows of the model.
        control_features: The same of the control.
        bootstrap: Resampling of captions.
    """
    model, control = (
        (caption_similarity(one), caption_similarity(one, centred=True)) for one in (features, control_features)
    )
    count = len(features["ko"])
    measures, control_measures = _measures(*model), _measures(*control)
    found = Findings(items=_items(name, captions, model, control))
    for key, values in measures.items():
        chance = min(1.0, int(key.rpartition("@")[2]) / count) if "R@" in key else None
        other = control_measures[key]
        parts = {
            name: bootstrap.mean(values),
            f"{name}, {CONTROL}": bootstrap.mean(other),
            f"{name}, model − control": bootstrap.difference(values, other),
        }
        for subject, interval in parts.items():
            finding = Finding(
                subject=subject,
                measure=key,
                interval=interval,
                count=count,
                chance=None if subject.endswith("− control") else chance,
                headline=key in HEADLINE,
            )
            found.summary.append(finding)
    found.statements = _statements(name, found.summary)
    return found


def _measures(plain: CaptionSimilarity, centred: CaptionSimilarity) -> dict[str, Tensor]:
    """Measure -> per-item values (N,); the metric is their mean."""
    measures: dict[str, Tensor] = {}
    for suffix, one in (("", plain), ("_centred", centred)):
        for direction, ranks in one.ranks.items():
            measures |= {f"{direction}{suffix}_R@{k}": (ranks < k).double() for k in RECALL_KS}
    for suffix, one in (("", plain), (", centred", centred)):
        values = {"matched": one.matched, "random": one.random, "matched − random": one.matched - one.random}
        measures |= {f"{measure}{suffix}": each for measure, each in values.items()}
    return measures


def _items(
    name: str,
    captions: dict[str, list[str]],
    model: tuple[CaptionSimilarity, CaptionSimilarity],
    control: tuple[CaptionSimilarity, CaptionSimilarity],
) -> list[Item]:
    columns = {
        **{f"rank_{direction}": values for direction, values in model[0].ranks.items()},
        **{f"rank_{direction}_control": values for direction, values in control[0].ranks.items()},
        "matched": model[0].matched,
        "random": model[0].random,
        "matched_centred": model[1].matched,
        "random_centred": model[1].random,
        "matched_centred_control": control[1].matched,
    }
    lists = {column: values.tolist() for column, values in columns.items()}
    return [
        {"set": name, "ko": ko, "en": en, **{column: values[place] for column, values in lists.items()}}
        for place, (ko, en) in enumerate(zip(captions["ko"], captions["en"], strict=True))
    ]


def _statements(name: str, summary: list[Finding]) -> list[str]:
    """Sentences on retrieval and similarity, by whether the paired interval excludes zero."""
    questions = {
        "ko_to_en_R@1": "finds the English caption of a Korean one",
        "en_to_ko_R@1": "finds the Korean caption of an English one",
        "matched − random, centred": "puts captions of one meaning nearer than others, the language offset removed,",
    }
    words = {"above": "more than", "below": "less than", "inconclusive": "not measurably more than"}
    differences = {one.measure: one.interval for one in summary if one.subject.endswith("model − control")}
    return [
        f"{name}: the model {what} {words[one.verdict]} its untrained control "
        f"(difference {one.value:+.3f}, 95% interval {one.low:+.3f} to {one.high:+.3f})."
        for one, what in ((differences[measure], what) for measure, what in questions.items())
    ]


def gap_findings(
    name: str, text_features: dict[str, Tensor], image_features: Tensor | None, bootstrap: Bootstrap
) -> list[Finding]:
    """Distances between the mean rows of Korean captions, English captions and images.

    Args:
        name: Subject of the findings.
        text_features: Language -> (N, E) unit rows.
        image_features: (M, E) unit rows; `None`: only the language gap.
        bootstrap: Resampling of captions and images.

    Returns:
        A distance in [0, 2] for each pair of groups. Captions are resampled together with their translations, and
        separately from images.

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    for language, rows in text_features.items():
        require_finite(rows, f"{language} caption")
    ko, en = (text_features[language].numpy() for language in LANGUAGES)
    found = [Finding(subject=name, measure="gap ko–en", interval=bootstrap.length_of_mean(ko - en), count=len(ko))]
    if image_features is not None:
        require_finite(image_features, "image")
        images = image_features.numpy()
        found += [
            Finding(
                subject=name,
                measure=f"gap {language}–image",
                interval=bootstrap.distance_of_means(rows, images),
                count=len(rows) + len(images),
            )
            for language, rows in (("ko", ko), ("en", en))
        ]
    return found
