"""The inputs of the stages: data modules and evaluation sets, built from an experiment."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from data_modules.benchmarks.evaluation_sets import EvaluationSets, build_evaluation_sets
from data_modules.benchmarks.probe_sets import ProbeSet, build_probe_sets
from data_modules.image import ImageDataModule
from data_modules.image_text import ImageTextDataModule
from data_modules.order.sampling import Draw
from data_modules.sources.rows import PairSource
from data_modules.text.config import TokenizerConfig
from data_modules.text.normalization import NORMALIZATION
from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.config.experiment import (
    ContrastiveExperiment,
    Experiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.errors import ConfigError
from kelip_lightning.evaluation.chance import chance_levels
from kelip_lightning.evaluation.metric_names import nearest_first
from kelip_lightning.evaluation.probe import probe_chance
from kelip_lightning.planning.stage_plan import OpenedSources, open_stages, stages_of
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.runs.timing import phase
from kelip_lightning.training.initial_model import read_model_of
from kelip_lightning.training.provenance import keep_tokenizer, kept_tokenizer, normalization_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedData:
    """The files that an experiment reads, opened and checked before its run folder is made."""

    sources: OpenedSources
    sets: EvaluationSets
    """Of contrastive training."""
    chance: Mapping[str, float]
    """Metric of the evaluation -> its chance level."""
    probes: Sequence[ProbeSet] = ()
    """Of MAE pre-training."""
    probe_chance: Mapping[str, float] = field(default_factory=dict)
    """Metric of the probes -> its chance level."""


def open_data(experiment: Experiment) -> OpenedData:
    """Open every source, evaluation set and probe set, and check the metrics of the best checkpoints.

    Raises:
        DataError: A file is missing or damaged, or not as configured.
        ConfigError: `checkpoint.best_metric` is no metric of its stage's evaluation.
    """
    stages = stages_of(experiment)
    mae, contrastive = stages.get("mae"), stages.get("contrastive")
    sets, probes = EvaluationSets(), list[ProbeSet]()
    if isinstance(mae, MaskedPretrainExperiment):
        probes = build_probe_sets(mae.probe)
    if isinstance(contrastive, ContrastiveExperiment):
        sets = build_evaluation_sets(contrastive.evaluation)
    for note in (note for one in (*probes, *sets) for note in one.notes):
        _log.info(note)
    chance, chance_of_probes = chance_levels(sets), probe_chance(probes)
    for name, stage, levels in (("mae", mae, chance_of_probes), ("contrastive", contrastive, chance)):
        metric = None if stage is None else stage.checkpoint.best_metric
        if metric is not None and metric not in levels:
            at = f"{name}." if isinstance(experiment, PretrainExperiment) else ""
            known = ", ".join(nearest_first(metric, levels)) or "none, because no evaluation set is configured"
            raise ConfigError(
                [f"{at}checkpoint.best_metric = {metric!r} is no metric of this evaluation; those are {known}"]
            )
    return OpenedData(
        sources=open_stages(experiment), sets=sets, chance=chance, probes=probes, probe_chance=chance_of_probes
    )


def build_image_data(
    experiment: MaskedPretrainExperiment, sources: Sequence[PairSource] | None = None
) -> ImageDataModule:
    """The data module of MAE pre-training; opens its sources unless they are given."""
    return ImageDataModule(
        experiment.data,
        experiment.transform,
        num_patches=(experiment.transform.image_size // experiment.image_encoder.patch_size) ** 2,
        seed=experiment.seed,
        max_steps=experiment.schedule.max_steps,
        sources=sources,
    )


@phase("tokenizer")
def build_image_text_data(
    experiment: ContrastiveExperiment, sources: Sequence[PairSource] | None = None, run: RunFolder | None = None
) -> ImageTextDataModule:
    """The data module of contrastive training, with its tokenizer.

    Args:
        experiment: The stage.
        sources: Its sources, opened, before any language rule; `None`: they are opened here.
        run: The run that keeps the tokenizer: read from its folder, or trained and written there by the first process.
            `None`: the tokenizer is trained, or read from the configured file, and not kept. With `init.model` it is
            that model's instead of a trained one.

    Raises:
        DataError: A file is missing, damaged, or not as configured.
        EncoderFileError: The model of `init.model` is missing, damaged, or not the one that was checked.
        RunFolderError: The run's tokenizer was replaced.
    """
    kept: TokenizerConfig | BilingualTokenizer | None
    kept = own = None if run is None else kept_tokenizer(run, experiment.tokenizer)
    if own is None and experiment.init.model is not None:
        kept = read_model_of(experiment.init, experiment.tokenizer).tokenizer.with_context_length(
            experiment.tokenizer.context_length
        )
    data = ImageTextDataModule(
        experiment.data,
        experiment.transform,
        kept or experiment.tokenizer,
        seed=experiment.seed,
        max_steps=experiment.schedule.max_steps,
        sources=sources,
        normalization=NORMALIZATION if run is None else normalization_of(run),
    )
    if run is not None and own is None:
        keep_tokenizer(run, data.tokenizer)
    return data


def shown_images(data: ImageDataModule, count: int) -> tuple[Tensor, Tensor]:
    """`count` fixed crops, uint8 (N, 3, H, W), and their noise, float32 (N, num_patches): the first in order."""
    draws = [Draw(0, int(sample_id)) for sample_id in data.order.batch(0)[:count]]
    batch = data.dataset.load(draws)
    return batch.images, batch.noise
