"""Writes the experiments for a lab's data into a folder, and checks that they load."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_modules.errors import DataError
from data_modules.languages import LANGUAGES
from data_modules.preparation.survey.held_out import HeldOutBy, write_parts
from data_modules.preparation.survey.survey import DataSurvey
from data_modules.sources.config import TABLE_ENDINGS
from kelip_lightning.config.experiment import MaskedPretrainExperiment, PretrainExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.errors import ConfigError
from kelip_lightning.scaffolding.experiment_files import Parts, experiment_files
from kelip_lightning.scaffolding.machine import Machine
from kelip_lightning.scaffolding.sizing import Sizing, choose_sizing

FILES = ("base.yaml", "mae.yaml", "contrastive.yaml", "pretrain.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written."""

    files: list[Path]
    sizing: Sizing

    @property
    def experiment(self) -> Path:
        """The experiment to start: `pretrain.yaml`, or `mae.yaml` of data without captions."""
        return self.files[-1]


def refuse_existing(folder: Path) -> None:
    """Raises ConfigError if the folder holds files that `write_experiment` writes."""
    there = [name for name in (*FILES, *_table_names()) if (folder / name).exists()]
    if there:
        raise ConfigError(
            [f"{folder} holds {', '.join(there)} already: use another --output, or --force to replace them"]
        )


def write_experiment(name: str, survey: DataSurvey, machine: Machine, folder: Path) -> Written:
    """Write the experiments and, if rows are held out by hash, the tables of both parts.

    Raises:
        ConfigError: The experiment does not load; what was written is removed.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*FILES, *_table_names()):
        (folder / old).unlink(missing_ok=True)
    sizing = choose_sizing(survey, machine)
    parts = _parts(survey, folder)
    texts = experiment_files(name, survey, sizing, machine, parts)
    files = [folder / one for one in texts]
    for file, text in zip(files, texts.values(), strict=True):
        file.write_text(text, encoding="utf-8")
    tables = [*parts.train, *(one for files in parts.held_out.values() for one in files)] if parts.are_copies else []
    try:
        _check(folder)
    except (ConfigError, DataError):
        for file in (*files, *tables):
            file.unlink()
        raise
    return Written(files=[*tables, *files], sizing=sizing)


def _table_names() -> Sequence[str]:
    parts = ("train", "evaluation", *(f"evaluation_{language}" for language in LANGUAGES))
    return [f"{part}{ending}" for part in parts for ending in TABLE_ENDINGS]


def _parts(survey: DataSurvey, folder: Path) -> Parts:
    held_out, captions = survey.held_out, survey.captions
    if held_out.by is HeldOutBy.hash:
        image, root = survey.image, survey.image_root
        written = write_parts(held_out, survey.rows, image=image, root=root, mixed=captions.mixed, folder=folder)
        return Parts(
            train=[written.train], held_out={key: [one] for key, one in written.evaluation.items()}, are_copies=True
        )
    return Parts(train=held_out.train, held_out={"": held_out.files or held_out.train})


def _check(folder: Path) -> None:
    """Load what was written as `kelip pretrain` or `kelip mae` will."""
    pretrain = folder / "pretrain.yaml"
    schema = PretrainExperiment if pretrain.is_file() else MaskedPretrainExperiment
    file = pretrain if pretrain.is_file() else folder / "mae.yaml"
    load_experiment(file, [], schema)
