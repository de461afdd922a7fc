"""Multiple-choice questions about images, as torchmetrics.

Shapes: N images, T texts of all images one after another, E embedding width.
"""

from typing import Any

import torch
from torch import Tensor

from kelip_lightning.evaluation.gathered_metric import ImageTextMetric, sorted_once
from kelip_lightning.evaluation.ranks import QueryOutcomes, checked_tie_rule


class ChoiceAccuracy(ImageTextMetric):
    """The share of images whose nearest text, among their own, is the correct one.

    Args:
        counts: int64 (N,), texts of each image, on every rank. Images have the ids 0 to N - 1, and the text ids
            of image i follow those of image i - 1, from 0.
        answers: int64 (N,), index of each image's correct text among its own.
        tie_rule: `pessimistic`: another text with the score of the correct one is chosen before it. `topk`: the first
            of equal texts is chosen.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: An answer is none of its texts, or the tie rule is unknown.
    """

    def __init__(self, counts: Tensor, answers: Tensor, *, tie_rule: str = "pessimistic", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if counts.shape != answers.shape or not bool(((answers >= 0) & (answers < counts)).all()):
            raise ValueError("every answer must be the index of one of its image's texts")
        self.tie_rule = checked_tie_rule(tie_rule)
        self.counts, self.answers = counts, answers
        self.outcomes: QueryOutcomes | None = None
        """Of the last `compute`, with k = 1."""

    def compute(self) -> Tensor:
        """The accuracy, float64 scalar.

        Raises:
            ValueError: An image or a text was not added.
        """
        rows = {}
        for what, expected in (("image", len(self.counts)), ("text", int(self.counts.sum()))):
            ids = self.rows(f"{what}_ids")
            order = sorted_once(ids)
            if len(order) != expected:
                raise ValueError(f"{len(order)} of {expected} {what}s were added; add all of them")
            rows[what] = self.rows(f"{what}_rows")[order].cpu()
        owner = torch.repeat_interleave(torch.arange(len(self.counts)), self.counts)
        scores = (rows["image"][owner] * rows["text"]).sum(dim=1)
        place = torch.arange(len(owner)) - (self.counts.cumsum(0) - self.counts)[owner]
        table = torch.full((len(self.counts), int(self.counts.max())), -torch.inf)
        table[owner, place] = scores
        own = table.gather(1, self.answers[:, None])
        ranks = (table >= own).sum(dim=1) - 1
        # argmax of equal values is not specified; the first place of the maximum is.
        is_best = table == table.amax(dim=1, keepdim=True)
        first = is_best.long().argmax(dim=1)
        hits = (first == self.answers)[:, None]
        self.outcomes = QueryOutcomes(torch.arange(len(self.counts)), ranks, hits, (1,))
        return torch.tensor(self.outcomes.recall(1, self.tie_rule), dtype=torch.float64)
