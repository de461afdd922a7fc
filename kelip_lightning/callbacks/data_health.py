"""Skipped and repaired samples and the actual data mixture: counted, recorded, and limited."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from data_modules.config import CorruptSampleConfig
from data_modules.errors import DataError
from data_modules.faults import FaultReport
from data_modules.json_lines import append_json_lines, read_json_lines, replace_json_lines
from data_modules.languages import LANGUAGES
from data_modules.sources.rows import PairSource
from kelip_lightning.distributed.gather import is_distributed
from kelip_lightning.modules.stage import on_host

_log = logging.getLogger(__name__)

MAX_LINES = 10_000
"""Lines of the file for one kind of fault in one source; further ones are only counted."""


class DataHealthCallback(pl.Callback):
    """Logs `samples/skipped/<source>/<kind>`, `samples/repaired/...` (totals of all ranks), the mix of the last steps.

    `samples/mix/<source>` and `samples/mix/<source>_<language>` are shares of the samples since the last entry. Every
    fault becomes a line of the file: kind, source, key, sample_id, step, detail. Counts are gathered from all ranks
    before a checkpoint and every `log_every_n_steps` steps, when the run stops if too many samples were skipped.

    Args:
        file: `bad_samples.jsonl` of the stage.
        corrupt_samples: The limit.
        sources: In the order of their ids.
    """

    def __init__(self, file: Path, corrupt_samples: CorruptSampleConfig, sources: Sequence[PairSource]) -> None:
        super().__init__()
        self._file, self._limit = file, corrupt_samples.max_share
        self._names = [source.name for source in sources]
        self._ends = torch.tensor([len(source) for source in sources]).cumsum(0)
        self._opening = [report for source in sources for report in source.opening_faults()]
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._drawn = 0
        self._pending: list[FaultReport] = []
        self._mix: Tensor | None = None
        """This rank's samples per source and language since counts were last gathered."""
        self._mix_of_entry = torch.zeros(len(self._names) * len(LANGUAGES), dtype=torch.int64)
        """The gathered samples of all ranks since the last entry."""
        self._last_warned = 0

    def state_dict(self) -> dict[str, Any]:
        """The totals up to this step, so that the limit holds across resumptions; all ranks call it together."""
        self._gather()
        return {
            "drawn": self._drawn,
            "counts": [[*key, number] for key, number in self._counts.items()],
            "mix_of_entry": self._mix_of_entry.tolist(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from saved totals."""
        self._drawn = int(state_dict["drawn"])
        self._counts = Counter({(verb, source, kind): n for verb, source, kind, n in state_dict["counts"]})
        if "mix_of_entry" in state_dict:  # checkpoints of earlier versions have none
            self._mix_of_entry = torch.tensor(state_dict["mix_of_entry"], dtype=torch.int64)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop lines of steps that are repeated, and record what was left out when the sources were opened."""
        if not trainer.is_global_zero:
            return
        if self._file.is_file():
            self._keep_until(trainer.global_step)
        self._write(self._opening)
        if self._opening:
            kinds = Counter(f"{report.source}: {report.kind}" for report in self._opening)
            _log.warning("left out when the data were opened: %s; see %s", _listed(kinds), self._file)

    def _keep_until(self, step: int) -> None:
        try:
            kept = [one for one in read_json_lines(self._file) if 0 <= one["step"] < step]
        except DataError as error:  # a damaged record must not end the run
            aside = self._file.with_name(f"{self._file.name}.damaged")
            os.replace(self._file, aside)
            _log.warning("%s; it is renamed to %s, and a new record begins", error, aside.name)
        else:
            replace_json_lines(self._file, kept)

    def on_train_batch_end(
        self, trainer: Any, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch; every few steps gather and log the counts."""
        self._pending += batch.faults
        languages = getattr(batch, "languages", None)  # the MAE stage's images have none
        seen = self._seen(batch.sample_ids, languages)
        self._mix = seen if self._mix is None else self._mix + seen
        if (batch_idx + 1) % max(1, trainer.log_every_n_steps) == 0:
            self._report(trainer, pl_module, has_languages=languages is not None)

    def _seen(self, sample_ids: Tensor, languages: Tensor | None) -> Tensor:
        """Samples by source and language, int64, flat; computed on the device without synchronisation."""
        if self._ends.device != sample_ids.device:
            self._ends = self._ends.to(sample_ids.device)
        places = torch.bucketize(sample_ids, self._ends, right=True)
        cells = places * len(LANGUAGES) + (0 if languages is None else languages)
        # Not bincount, whose output size depends on the largest value, for which the host would wait.
        return (cells.unsqueeze(1) == torch.arange(len(self._mix_of_entry), device=cells.device)).sum(0)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record what came since the last entry."""
        self._gather()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Record this rank's last faults; the other ranks may have ended."""
        if trainer.is_global_zero:
            self._count(self._pending, 0)
            self._pending = []

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule, has_languages: bool) -> None:
        self._gather()
        mix = self._mix_of_entry.clone()
        self._mix_of_entry.zero_()
        skipped = sum(number for (verb, _, _), number in self._counts.items() if verb == "skipped")
        metrics = {f"samples/{verb}/{source}/{kind}": float(n) for (verb, source, kind), n in self._counts.items()}
        metrics["samples/skipped_share"] = skipped / max(1, self._drawn)
        table = mix.reshape(len(self._names), len(LANGUAGES)).double() / max(1, int(mix.sum()))
        for name, row in zip(self._names, table.tolist(), strict=True):
            metrics[f"samples/mix/{name}"] = sum(row)
            if has_languages:
                metrics |= {f"samples/mix/{name}_{lang}": share for lang, share in zip(LANGUAGES, row, strict=True)}
        pl_module.log_dict(on_host(metrics), rank_zero_only=True)
        if trainer.is_global_zero and skipped > 2 * self._last_warned:
            self._last_warned = skipped
            _log.warning(
                "%d of %d samples were skipped so far: %s; see %s", skipped, self._drawn, self._worst(), self._file
            )
        self._stop_if_too_many(skipped)

    def _gather(self) -> None:
        """Add the counts of all ranks to the totals."""
        own = self._mix.cpu() if self._mix is not None else torch.zeros_like(self._mix_of_entry)
        parts: list[tuple[list[FaultReport], Tensor]] = [(self._pending, own)]
        if is_distributed():
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, parts[0])
            parts = gathered
        mix = torch.stack([part for _, part in parts]).sum(0)
        self._count([report for reports, _ in parts for report in reports], int(mix.sum()))
        self._mix_of_entry += mix
        self._pending, self._mix = [], None

    def _count(self, reports: Sequence[FaultReport], drawn: int) -> None:
        self._drawn += drawn
        if not is_distributed() or torch.distributed.get_rank() == 0:
            self._write(reports)
        self._counts.update(_row(report) for report in reports)

    def _write(self, reports: Sequence[FaultReport]) -> None:
        before = Counter(self._counts)
        lines: list[dict[str, Any]] = []
        for report in reports:
            before[_row(report)] += 1
            if before[_row(report)] <= MAX_LINES:
                lines.append(report._asdict())
        if lines:
            append_json_lines(self._file, lines)

    def _worst(self) -> str:
        return _listed(
            Counter({f"{source}: {kind}": n for (verb, source, kind), n in self._counts.items() if verb == "skipped"})
        )

    def _stop_if_too_many(self, skipped: int) -> None:
        """Checks the limit once enough samples were drawn.

        Raises:
            DataError: Too many were skipped; on every rank.
        """
        enough = self._limit == 0 or self._drawn >= 10 / self._limit
        if enough and skipped > self._limit * self._drawn:
            raise DataError(
                f"{skipped} of {self._drawn} samples could not be used, more than data.corrupt_samples.max_share = "
                f"{self._limit:g}: {self._worst()}; see {self._file}, fix the data or raise the limit"
            )


def _row(report: FaultReport) -> tuple[str, str, str]:
    return "skipped" if report.is_skipped else "repaired", report.source, report.kind


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.most_common(5))
