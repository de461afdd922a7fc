"""The part of a run folder that belongs to one stage."""

from dataclasses import dataclass
from pathlib import Path

from kelip_lightning.runs.checkpoints import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFolder:
    """The part of a run folder that one stage writes; TensorBoard events stand in `path` itself."""

    name: str
    """`mae` or `contrastive`."""
    path: Path
    metrics_file: Path
    """Shared by the run's stages."""
    resumed: bool = False
    """Whether the run was begun before."""
    checkpoint: Checkpoint | None = None
    """From where the stage goes on; none: it begins."""

    @property
    def non_finite(self) -> Path:
        """Folder of the reports on losses and gradients that are not finite."""
        return self.path / "non_finite"

    @property
    def bad_samples(self) -> Path:
        """One line per sample that was skipped or repaired."""
        return self.path / "bad_samples.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the stage's checkpoints."""
        return self.path / "checkpoints"
