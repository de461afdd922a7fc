"""Embeddings of some items, kept while all are added, and gathered from all ranks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kelip_lightning.evaluation.gathered_metric import GatheredMetric, sorted_once


class SelectedRows(GatheredMetric):
    """Keeps the embeddings of chosen items: a metric whose value is those rows.

    Args:
        ids: int64 (S',), the items to keep; repeated ones are kept once.
    """

    item_rows: list[Tensor]
    item_ids: list[Tensor]

    def __init__(self, ids: Tensor) -> None:
        super().__init__()
        self.ids = torch.unique(ids)
        """int64 (S,), ascending, on the CPU."""

    def empty_states(self, width: int) -> Mapping[str, Tensor]:
        return {"item_rows": torch.empty(0, width), "item_ids": torch.empty(0, dtype=torch.int64)}

    def update(self, rows: Tensor, ids: Tensor) -> None:
        """Add embeddings of any items on any rank.

        Args:
            rows: (B, E), any float dtype, normalised here in float32.
            ids: int64 (B,).

        Raises:
            NonFiniteEmbeddingsError: A kept row holds NaN or infinity.
        """
        wanted = torch.isin(ids.cpu(), self.ids)
        if bool(wanted.any()):
            self.add_rows("item", "item", rows[wanted.to(rows.device)], ids[wanted.to(ids.device)])

    def compute(self) -> Tensor:
        """(S, E), float32 unit rows, in the order of `ids`, on every rank."""
        return self.rows("item_rows")[sorted_once(self.rows("item_ids"))]
