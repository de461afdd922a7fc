"""A picture of what the model sees: fixed images with the captions it finds likeliest."""

import lightning.pytorch as pl
import torch
from torch import Tensor

from data_modules.benchmarks.evaluation_sets import RetrievalSet
from kelip_lightning.callbacks.evaluation import EvaluationCallback, module_embeddings
from kelip_lightning.callbacks.periodic import PeriodicCallback, log_image
from kelip_lightning.drawing.panels import PanelRow, RankedCaption, draw_caption_panel
from kelip_lightning.evaluation.embed import Embeddings
from kelip_lightning.modules.contrastive import ContrastiveModule

TOP_CAPTIONS = 3


class CaptionPanelCallback(PeriodicCallback):
    """Draws images of a retrieval set with their true and their top captions into TensorBoard.

    The images are spread evenly over the set and stay the same for the whole run. A probability is
    the softmax of the scaled similarities over all captions of the set's gallery in one language.
    """

    def __init__(
        self,
        retrieval_set: RetrievalSet,
        every_n_steps: int,
        num_images: int = 8,
        evaluation: EvaluationCallback | None = None,
    ) -> None:
        """Chooses the images.

        Args:
            retrieval_set: Images and gallery.
            every_n_steps: Optimizer steps between two panels.
            num_images: Rows of the panel.
            evaluation: The run's evaluation callback, before this one in the list of callbacks: its
                embeddings of the gallery are used where both act at the same step.
        """
        super().__init__(every_n_steps)
        self._set = retrieval_set
        self._evaluation = evaluation
        self._shown = spread_evenly(len(retrieval_set.images), num_images)

    def act(self, trainer: pl.Trainer, pl_module: ContrastiveModule, step: int) -> None:
        """Embeds, ranks, draws, logs."""
        embeddings = (
            self._evaluation.embeddings_at(step, pl_module) if self._evaluation else module_embeddings(pl_module)
        )
        rows = panel_rows(self._set, self._shown, embeddings, pl_module.model.scale().item())
        panel = draw_caption_panel(rows, title=f"{self._set.name}, step {step}")
        log_image(trainer, f"captions/{self._set.name}", panel, step)


def panel_rows(data: RetrievalSet, shown: Tensor, embeddings: Embeddings, scale: float) -> list[PanelRow]:
    """What the panel says about the images at the indices `shown`; `scale` is 1 / temperature."""
    features = embeddings.images(data.images[shown], [data.digests[index] for index in shown.tolist()])
    ranked: dict[str, list[list[RankedCaption]]] = {}
    for language, captions in data.captions.items():
        chances = (scale * features @ embeddings.texts(captions).T).softmax(dim=-1)
        top = chances.topk(min(TOP_CAPTIONS, len(captions)), dim=-1)
        ranked[language] = [
            [
                RankedCaption(text=captions[index], probability=chance, right=index == target)
                for index, chance in zip(indices, values, strict=True)
            ]
            for indices, values, target in zip(
                top.indices.tolist(), top.values.tolist(), data.target[shown].tolist(), strict=True
            )
        ]
    return [
        PanelRow(
            image=data.images[index].permute(1, 2, 0).numpy(),
            true_captions=[captions[int(data.target[index])] for captions in data.captions.values()],
            ranked={language: rows[place] for language, rows in ranked.items()},
        )
        for place, index in enumerate(shown.tolist())
    ]


def spread_evenly(num_items: int, num_shown: int) -> Tensor:
    """At most `num_shown` distinct indices from the first to the last item; int64, no randomness."""
    return torch.linspace(0, num_items - 1, min(num_items, num_shown)).round().long()
