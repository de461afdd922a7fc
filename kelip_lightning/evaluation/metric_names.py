"""Names of the evaluation metrics; they are built and parsed here only.

    eval/<retrieval set>_<language>/image_to_text_R@K, text_to_image_R@K, median_rank
    eval/<caption set>/<language>_to_<language>_R@K, matched_minus_random
    eval/<classification set>_<language>/zero_shot_topK, mean_per_class_recall

R@K, topK and mean_per_class_recall are in [0, 1], matched_minus_random (a difference of cosines) in [-2, 2], and
median_rank counts from 1. Higher is better, except for median_rank.

A task is a metric without its K; `suite.TaskItems` holds its outcome per item. Imports nothing slow: studies are
checked before torch is loaded.
"""

import re

RECALL_KS = (1, 5, 10)
"""The K of the reported R@K."""
TOP_KS = (1, 5)
"""The K of the reported zero-shot topK; a K above the number of classes is left out."""

IMAGE_TO_TEXT, TEXT_TO_IMAGE, ZERO_SHOT = "image_to_text", "text_to_image", "zero_shot"
MATCHED_MINUS_RANDOM = "matched_minus_random"
"""A task of a whole caption set whose outcomes are differences of cosines instead of ranks."""
MEDIAN_RANK, MEAN_PER_CLASS_RECALL = "median_rank", "mean_per_class_recall"

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
    return f"{task}_top{k}" if task.endswith(f"/{ZERO_SHOT}") else f"{task}_R@{k}"


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


def is_rank(metric: str) -> bool:
    """Whether the metric is a rank, from 1, of which lower is better, and not a share or a difference."""
    return metric.endswith(MEDIAN_RANK)
