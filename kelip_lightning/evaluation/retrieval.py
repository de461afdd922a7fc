"""Image–text retrieval and retrieval between the languages, as torchmetrics.

Shapes: N images, M texts, E embedding width, P positives (correct pairs).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kelip_lightning.evaluation.gathered_metric import GatheredMetric, ImageTextMetric, sorted_once
from kelip_lightning.evaluation.metric_names import IMAGE_TO_TEXT, MEAN_RECALL, MEDIAN_RANK, RECALL_KS, TEXT_TO_IMAGE
from kelip_lightning.evaluation.ranks import (
    QueryOutcomes,
    block_size,
    checked_tie_rule,
    median_rank,
    outcomes_of_scores,
    padded_positives,
    scores_of,
)
from kelip_lightning.evaluation.translations import centre, matched_minus_random

TOP_SHOWN = 5
"""Texts or classes of an image in a panel."""


class TopMatches(NamedTuple):
    """The best matches of some images, on the CPU."""

    image_ids: Tensor
    """int64 (S,), ascending."""
    match_ids: Tensor
    """int64 (S, K), text ids or classes, best first."""
    probabilities: Tensor
    """float32 (S, K), softmax of the scaled cosines over all texts or classes."""


class RetrievalRecall(ImageTextMetric):
    """Recall@k and median rank in both directions, any number of correct texts per image and images per text.

    A query is a hit at k if any of its correct items is among its first k, as in CLIP, CLIP_benchmark and the recalls
    of ECCV Caption (Chun et al. 2022, arXiv:2204.03359), whose mAP@R and R-Precision are other metrics. Texts without
    an image are part of the gallery, and no queries.

    Args:
        positives: int64 (P, 2), pairs (image id, text id), on every rank; `None`: an image and a text with equal ids
            are a pair, and several texts of an image all have its id. With `positives`, text ids are unique.
        ks: The k of recall@k.
        tie_rule: `pessimistic`: a wrong item with the score of the best correct one is ranked before it. `topk`: as
            `torch.topk` orders them, which is CLIP_benchmark's rule.
        shown_ids: int64 (S,), images whose best texts are kept in `top_texts`.
        logit_scale: 1 / temperature, for the probabilities there.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: The tie rule is unknown.
    """

    def __init__(
        self,
        positives: Tensor | None = None,
        *,
        ks: Sequence[int] = RECALL_KS,
        tie_rule: str = "pessimistic",
        shown_ids: Tensor | None = None,
        logit_scale: float = 100.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ks = tuple(sorted(ks))
        self.tie_rule = checked_tie_rule(tie_rule)
        self.positives = positives
        self.outcomes: dict[str, QueryOutcomes] = {}
        """`image_to_text` and `text_to_image` -> outcomes of the last `compute`."""
        self.shown_ids, self.logit_scale = shown_ids, logit_scale
        self.top_texts: TopMatches | None = None
        """Of the last `compute`; `None` without `shown_ids`."""

    def compute(self) -> dict[str, Tensor]:
        """`image_to_text_R@k`, `text_to_image_R@k`, their median ranks and `mean_recall`, float64 scalars.

        Raises:
            ValueError: There is no image or no text, an image has no correct text, or an id of `positives` was not
                added.
        """
        images, image_ids, texts, text_ids, pairs = self._gathered()
        queries, places = torch.unique(pairs[:, 1], return_inverse=True)
        inverse = torch.stack([places, pairs[:, 0]], dim=1)
        self.outcomes = {
            IMAGE_TO_TEXT: _outcomes(self, image_ids, images, texts, padded_positives(pairs, len(images))),
            TEXT_TO_IMAGE: _outcomes(
                self, text_ids[queries], texts[queries], images, padded_positives(inverse, len(queries))
            ),
        }
        if self.shown_ids is not None:
            shown = torch.unique(self.shown_ids.to(self.device))
            scores = scores_of(images[_places("image", image_ids, shown)], texts)
            top = (self.logit_scale * scores).softmax(dim=1).topk(min(TOP_SHOWN, len(texts)), dim=1)
            self.top_texts = TopMatches(shown.cpu(), text_ids[top.indices].cpu(), top.values.cpu())
        recalls = {
            f"{direction}_R@{k}": outcomes.recall(k, self.tie_rule)
            for direction, outcomes in self.outcomes.items()
            for k in self.ks
        }
        medians = {
            f"{direction}_{MEDIAN_RANK}": median_rank(outcomes.ranks(self.tie_rule))
            for direction, outcomes in self.outcomes.items()
        }
        found = recalls | medians | {MEAN_RECALL: sum(recalls.values()) / len(recalls)}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    def _gathered(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Images and their ids, texts and theirs, and int64 (P, 2) pairs of positions; all sorted by id."""
        image_ids, text_ids = self.rows("image_ids"), self.rows("text_ids")
        if not len(image_ids) or not len(text_ids):
            raise ValueError(f"retrieval needs images and texts, got {len(image_ids)} and {len(text_ids)}")
        image_order = sorted_once(image_ids)
        text_order = sorted_once(text_ids) if self.positives is not None else torch.sort(text_ids, stable=True)[1]
        image_ids, text_ids = image_ids[image_order], text_ids[text_order]
        if self.positives is None:
            first = torch.searchsorted(image_ids, text_ids).clamp(max=len(image_ids) - 1)
            known = image_ids[first] == text_ids
            pairs = torch.stack([first[known], known.nonzero()[:, 0]], dim=1)
        else:
            positives = self.positives.to(self.device)
            pairs = torch.stack(
                [_places("image", image_ids, positives[:, 0]), _places("text", text_ids, positives[:, 1])], dim=1
            )
        return self.rows("image_rows")[image_order], image_ids, self.rows("text_rows")[text_order], text_ids, pairs


class CaptionRetrieval(GatheredMetric):
    """Retrieval of each caption's translation, raw and with each language centred, and the similarity of translations.

    Centring removes the mean vector of a language, its offset from the other (`centre`), which is no meaning.

    Args:
        ks: The k of recall@k.
        tie_rule: As in `RetrievalRecall`.
        kwargs: Of `torchmetrics.Metric`.
    """

    ko_rows: list[Tensor]
    ko_ids: list[Tensor]
    en_rows: list[Tensor]
    en_ids: list[Tensor]

    def __init__(self, *, ks: Sequence[int] = RECALL_KS, tie_rule: str = "pessimistic", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ks = tuple(sorted(ks))
        self.tie_rule = checked_tie_rule(tie_rule)
        self.outcomes: dict[str, QueryOutcomes] = {}
        """`ko_to_en`, `en_to_ko`, `ko_to_en_centred`, `en_to_ko_centred` -> outcomes of the last `compute`."""
        self.matched_minus_random = torch.empty(0)
        """float64 (N,), of the last `compute`, in the order of the ids, on the CPU."""

    def empty_states(self, width: int) -> Mapping[str, Tensor]:
        rows, ids = torch.empty(0, width), torch.empty(0, dtype=torch.int64)
        return {"ko_rows": rows, "ko_ids": ids, "en_rows": rows, "en_ids": ids}

    def update(
        self,
        ko: Tensor | None = None,
        ko_ids: Tensor | None = None,
        en: Tensor | None = None,
        en_ids: Tensor | None = None,
    ) -> None:
        """Add embeddings of captions; translations have equal ids, and may be added on different ranks.

        Args:
            ko: (B, E), any float dtype, normalised here in float32.
            ko_ids: int64 (B,).
            en: (B', E).
            en_ids: int64 (B',).

        Raises:
            ValueError: Shapes do not fit.
            NonFiniteEmbeddingsError: A row holds NaN or infinity.
        """
        self.add_rows("ko", "ko caption", ko, ko_ids)
        self.add_rows("en", "en caption", en, en_ids)

    def compute(self) -> dict[str, Tensor]:
        """`ko_to_en_R@k`, `ko_to_en_centred_R@k`, both for en_to_ko too, `matched_minus_random`; float64 scalars.

        Raises:
            ValueError: There are fewer than two captions, or a caption has no translation.
        """
        rows = {}
        for language in ("ko", "en"):
            ids = self.rows(f"{language}_ids")
            order = sorted_once(ids)
            rows[language], kept = self.rows(f"{language}_rows")[order], ids[order]
            if language == "ko":
                first = kept
        if len(first) < 2 or not torch.equal(first, kept):
            both = int(torch.isin(first, kept).sum())
            raise ValueError(
                f"every caption needs one translation, and two captions are the fewest, got {len(first)} in ko and "
                f"{len(kept)} in en, {both} of them with equal ids"
            )
        own = torch.arange(len(first), device=first.device)[:, None]
        for suffix, by_language in (("", rows), ("_centred", {name: centre(one) for name, one in rows.items()})):
            for source, target in (("ko", "en"), ("en", "ko")):
                task = f"{source}_to_{target}{suffix}"
                self.outcomes[task] = _outcomes(self, first, by_language[source], by_language[target], own)
        self.matched_minus_random = matched_minus_random(rows["ko"], rows["en"]).cpu()
        found = {
            f"{task}_R@{k}": outcomes.recall(k, self.tie_rule)
            for task, outcomes in self.outcomes.items()
            for k in self.ks
        }
        found["matched_minus_random"] = self.matched_minus_random.mean().item()
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}


def _outcomes(
    metric: "RetrievalRecall | CaptionRetrieval", ids: Tensor, queries: Tensor, gallery: Tensor, correct: Tensor
) -> QueryOutcomes:
    """The outcomes of all queries, computed in blocks that the ranks share.

    Args:
        metric: Its k, and its ranks.
        ids: int64 (N,), of the queries.
        queries: (N, E), unit rows.
        gallery: (M, E), unit rows.
        correct: int64 (N, C), correct gallery items, filled up with -1.
    """

    def block(rows: slice) -> Tensor:
        found = outcomes_of_scores(scores_of(queries[rows], gallery), correct[rows], metric.ks)
        return torch.cat([found.ranks[:, None], found.topk_hits.long()], dim=1)

    whole = metric.in_blocks(len(queries), block_size(len(gallery)), block).cpu()
    return QueryOutcomes(ids.cpu(), whole[:, 0], whole[:, 1:].bool(), metric.ks)


def _places(what: str, ids: Tensor, wanted: Tensor) -> Tensor:
    """The positions of `wanted` in sorted unique `ids`."""
    places = torch.searchsorted(ids, wanted.contiguous()).clamp(max=len(ids) - 1)
    if missing := int((ids[places] != wanted).sum()):
        raise ValueError(f"positives names {missing} {what} ids that were not added")
    return places
