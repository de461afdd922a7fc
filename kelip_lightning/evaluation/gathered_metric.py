"""Base class of the metrics whose state is gathered over ranks, and whose blocks of work the ranks share."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from kelip_lightning.distributed.sharing import blocks_of, rows_in_blocks
from kelip_lightning.evaluation.embed import require_finite


class GatheredMetric(Metric):
    """A metric with rows as its state: `compute` sees the rows of all ranks, in an order that ranks do not change.

    Subclasses declare their states in `empty_states`; each is a list of tensors with equally many rows per update.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, **kwargs: Any) -> None:
        """Declares the states; `kwargs` are those of `torchmetrics.Metric`."""
        super().__init__(**kwargs)
        for name in self.empty_states(0):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @abstractmethod
    def empty_states(self, width: int) -> Mapping[str, Tensor]:
        """Name of each state -> its rows without any; `width` is E of embeddings."""

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As in torchmetrics, for ranks without rows too, which it would leave waiting."""
        if dist.is_available() and dist.is_initialized() and kwargs.get("should_sync", True) and not self._is_synced:
            widths = [rows[0].shape[1] for rows in self._rows().values() if rows and rows[0].ndim == 2]
            width = torch.tensor(max(widths, default=0), device=self.device)
            dist.all_reduce(width, op=dist.ReduceOp.MAX, group=self.process_group)
            device = torch.device("cpu") if self.compute_on_cpu else self.device
            for name, empty in self.empty_states(int(width)).items():
                if not getattr(self, name):
                    setattr(self, name, [empty.to(device)])
        super().sync(*args, **kwargs)

    @contextmanager
    def sync_context(self, *args: Any, should_unsync: bool = True, **kwargs: Any) -> Iterator[None]:
        """As in torchmetrics, which would leave the metric without its own rows after an error in `compute`."""
        self.sync(*args, **kwargs)
        try:
            yield
        finally:
            self.unsync(should_unsync=self._is_synced and should_unsync)

    def _rows(self) -> dict[str, list[Tensor]]:
        return {name: getattr(self, name) for name in self.empty_states(0)}

    def rows(self, name: str) -> Tensor:
        """A state as one tensor, before or after the ranks' rows are gathered."""
        value: Tensor | list[Tensor] = getattr(self, name)
        if isinstance(value, Tensor):
            return value
        return torch.cat(value) if value else self.empty_states(0)[name].to(self.device)

    def add_rows(self, state: str, noun: str, rows: Tensor | None, ids: Tensor | None) -> None:
        """Add embeddings (B, E), normalised in float32, to the states `STATE_rows` and `STATE_ids`; `None` twice: none.

        Raises:
            ValueError: One is given without the other, or shapes do not fit.
            NonFiniteEmbeddingsError: A row holds NaN or infinity; both call a row `noun`.
        """
        if rows is None and ids is None:
            return
        if rows is None or ids is None:
            raise ValueError(f"{noun}s and {state}_ids must be given together")
        require_rows(f"{noun}s", rows, ids)
        require_finite(rows, noun)
        getattr(self, f"{state}_rows").append(F.normalize(rows.detach().float(), dim=-1).to(self.device))
        getattr(self, f"{state}_ids").append(ids.to(self.device, torch.int64))

    def in_blocks(self, num_items: int, size: int, compute: Callable[[slice], Tensor]) -> Tensor:
        """As `rows_in_blocks`, among the ranks whose rows are gathered."""
        if self._is_synced:
            return rows_in_blocks(num_items, size, compute, self.process_group)
        return torch.cat([compute(block) for block in blocks_of(num_items, size)])


class ImageTextMetric(GatheredMetric):
    """A metric of image and text embeddings with ids."""

    image_rows: list[Tensor]
    image_ids: list[Tensor]
    text_rows: list[Tensor]
    text_ids: list[Tensor]

    def empty_states(self, width: int) -> Mapping[str, Tensor]:
        rows, ids = torch.empty(0, width), torch.empty(0, dtype=torch.int64)
        return {"image_rows": rows, "image_ids": ids, "text_rows": rows, "text_ids": ids}

    def update(
        self,
        images: Tensor | None = None,
        image_ids: Tensor | None = None,
        texts: Tensor | None = None,
        text_ids: Tensor | None = None,
    ) -> None:
        """Add embeddings; each may be added on any rank, in any order. An image id that was added before is ignored.

        Args:
            images: (B, E), any float dtype, normalised here in float32.
            image_ids: int64 (B,).
            texts: (B', E).
            text_ids: int64 (B',).

        Raises:
            ValueError: Shapes do not fit.
            NonFiniteEmbeddingsError: A row holds NaN or infinity.
        """
        self.add_rows("image", "image", images, image_ids)
        self.add_rows("text", "text", texts, text_ids)


def sorted_once(ids: Tensor) -> Tensor:
    """The positions of the first row of each id, in ascending order of the ids; int64."""
    ordered, order = torch.sort(ids, stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return order[is_first]


def require_rows(what: str, rows: Tensor, ids: Tensor, width: int | None = None) -> None:
    """Raise ValueError unless `rows` are embeddings (B, E) with B integer ids."""
    if ids.is_floating_point():
        raise ValueError(f"the ids of {what} must be integers, got {ids.dtype}")
    if rows.ndim != 2 or ids.shape != (len(rows),) or (width is not None and rows.shape[1] != width):
        wanted = f"(B, {'E' if width is None else width})"
        raise ValueError(f"{what} must be {wanted} with B ids, got {tuple(rows.shape)} and {tuple(ids.shape)}")
