"""Names of the evaluation metrics; they are built and parsed here only.

    eval/<retrieval set>_<language>/image_to_text_R@K, text_to_image_R@K, mean_recall
    eval/<retrieval set>_<language>/image_to_text_median_rank, text_to_image_median_rank
    eval/<caption set>/<language>_to_<language>_R@K, <language>_to_<language>_centred_R@K, matched_minus_random
    eval/<classification set>_<language>/zero_shot_topK, mean_per_class_recall
    eval/<choice set>_<language>/choice_top1

R@K, topK, mean_recall (the mean of the R@K of both directions) and mean_per_class_recall are in [0, 1],
matched_minus_random (a difference of cosines) in [-2, 2], and median ranks count from 1. Higher is better, except for
median ranks.

A task is a metric without its K; `suite.TaskItems` holds its outcome per item. Imports nothing slow: studies are
checked before torch is loaded.
"""

import re
from enum import Enum

RECALL_KS = (1, 5, 10)
"""The K of the reported R@K."""
TOP_KS = (1, 5)
"""The K of the reported zero-shot topK; a K above the number of classes is left out."""

IMAGE_TO_TEXT, TEXT_TO_IMAGE, ZERO_SHOT, CHOICE = "image_to_text", "text_to_image", "zero_shot", "choice"
MATCHED_MINUS_RANDOM = "matched_minus_random"
"""A task of a whole caption set whose outcomes are differences of cosines instead of ranks."""
MEDIAN_RANK, MEAN_RECALL, MEAN_PER_CLASS_RECALL = "median_rank", "mean_recall", "mean_per_class_recall"

_DIRECTION = re.compile(r"(ko|en)_to_(?:ko|en)")


def join_name(data_set: str, language: str | None, rest: str) -> str:
    """The task or metric `rest` of a set; `None`: of a caption set, which has both languages."""
    return f"eval/{data_set}_{language}/{rest}" if language else f"eval/{data_set}/{rest}"


def split_name(name: str) -> tuple[str, str | None, str]:
    """Set, language and rest of a task or metric.

    The language is that of the captions or class names; of the query for `ko_to_en`; `None` for both.
    """
    _, data_set, rest = name.split("/")
    if direction := _DIRECTION.match(rest):
        return data_set, direction[1], rest
    base, _, language = data_set.rpartition("_")
    return (base, language, rest) if base and language in ("ko", "en") else (data_set, None, rest)


def at_k(task: str, k: int) -> str:
    """The metric that counts the ranks of a task below k."""
    return f"{task}_top{k}" if task.endswith((f"/{ZERO_SHOT}", f"/{CHOICE}")) else f"{task}_R@{k}"


def parse_metric(metric: str) -> tuple[str, int | None]:
    """Task and K of a metric that is a mean over items; K is `None` for matched_minus_random.

    Raises:
        ValueError: Any other text.
    """
    if re.fullmatch(rf"eval/[^/]+/{MATCHED_MINUS_RANDOM}", metric):
        return metric, None
    found = re.fullmatch(r"(eval/[^/]+/.+)_(?:R@|top)(\d+)", metric)
    if not found or int(found[2]) < 1:
        raise ValueError(
            f"metric {metric!r} must read like eval/SET_ko/image_to_text_R@1, eval/SET/ko_to_en_R@1, "
            f"eval/SET_ko/zero_shot_top1 or eval/SET/{MATCHED_MINUS_RANDOM}"
        )
    return found[1], int(found[2])


_RESTS = re.compile(
    r"(image_to_text|text_to_image)_(R@\d+|median_rank)|mean_recall|(ko_to_en|en_to_ko)(_centred)?_R@\d+"
    r"|matched_minus_random|(zero_shot|choice)_top\d+|mean_per_class_recall"
)


def metric_problem(metric: str) -> str | None:
    """What is wrong with the name of a metric, for a message; `None`: nothing."""
    parts = metric.split("/")
    if len(parts) == 3 and parts[0] == "eval" and parts[1] and _RESTS.fullmatch(parts[2]):
        return None
    return f"{metric!r}, and a metric reads like eval/SET_ko/zero_shot_top1 or eval/SET/ko_to_en_R@1"


def is_rank(metric: str) -> bool:
    """Whether the metric is a rank, from 1, of which lower is better, and not a share or a difference."""
    return metric.endswith(MEDIAN_RANK)


class Unit(Enum):
    """The unit of a metric's value."""

    share = "share"
    """In [0, 1]; written in percent, differences in points."""
    cosine = "cosine"
    """A difference of cosines, in [-2, 2]."""
    rank = "rank"
    """From 1; lower is better."""


def unit_of(metric: str) -> Unit:
    """The unit of a metric."""
    if is_rank(metric):
        return Unit.rank
    return Unit.cosine if metric.endswith(MATCHED_MINUS_RANDOM) else Unit.share


def written(metric: str, value: float | None, *, signed: bool = False) -> str:
    """A value of a metric as a number: shares in percent, cosines with three decimals, ranks with one; `None`: a dash.

    Args:
        metric: Whose unit decides.
        value: In the metric's own unit, shares in [0, 1].
        signed: With a plus sign above zero, for differences.
    """
    if value is None:
        return "–"
    sign = "+" if signed else ""
    match unit_of(metric):
        case Unit.share:
            return f"{100 * value:{sign}.1f}"
        case Unit.cosine:
            return f"{value:{sign}.3f}"
        case Unit.rank:
            return f"{value:{sign},.1f}"
