"""Rules about the machine: files, folders and devices that an experiment names must be there."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from data_modules.benchmarks.evaluation_sets import EvaluationConfig
from data_modules.errors import DataError
from data_modules.image import ImageDataConfig
from data_modules.image_text import ImageTextDataConfig
from data_modules.paths import resolve_files, resolve_path, resolve_shards
from data_modules.sources.config import SourceFormat, source_format
from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment
from kelip_lightning.config.schema import join
from kelip_lightning.config.trainer import TrainerConfig
from kelip_lightning.distributed.accelerators import is_deepspeed
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models.model_folder import check_image_encoder

Stage = MaskedPretrainExperiment | ContrastiveExperiment


def sources_exist(stage: Stage, prefix: str) -> Iterator[str]:
    """Every pattern of every source matches a file."""
    data: ImageDataConfig | ImageTextDataConfig = stage.data
    for name, source in data.sources.items():
        key = join(prefix, f"data.sources.{name}.files")
        if source_format(source) is SourceFormat.table:
            yield from _missing_files(key, source.files)
        elif source_format(source) is SourceFormat.shards:
            yield from _missing_shards(key, source.files)


def text_files_exist(stage: ContrastiveExperiment, prefix: str) -> Iterator[str]:
    """Caption templates and a given tokenizer are there."""
    yield from _missing_file(join(prefix, "data.captions.templates_file"), stage.data.captions.templates_file)
    yield from _missing_file(join(prefix, "tokenizer.file"), stage.tokenizer.file)


def evaluation_files_exist(evaluation: EvaluationConfig, prefix: str) -> Iterator[str]:
    """Tables and class names of every evaluation set are there."""
    tables = {f"retrieval.{name}": one.table for name, one in evaluation.retrieval.items()}
    tables |= {f"captions.{name}": one.table for name, one in evaluation.captions.items()}
    tables |= {f"classification.{name}": one.table for name, one in evaluation.classification.items()}
    for name, table in tables.items():
        yield from _missing_files(join(prefix, f"evaluation.{name}.table.files"), table.files)
    for name, classes in evaluation.classification.items():
        key = join(prefix, f"evaluation.classification.{name}.classes_file")
        yield from _missing_file(key, classes.classes_file)


def initial_encoder_fits(stage: ContrastiveExperiment, prefix: str) -> Iterator[str]:
    """The folder to start from holds the configured encoder."""
    if stage.init.image_encoder is None:
        return
    folder = Path(stage.init.image_encoder)
    try:
        check_image_encoder(folder, stage.image_encoder)
    except EncoderFileError as error:
        text = str(error)
        key = join(prefix, "init.image_encoder")
        yield join(prefix, text) if text.startswith("init.") else f"{key} = {folder}: {text}"


def deepspeed_is_installed(stage: Stage, prefix: str) -> Iterator[str]:
    """The extra that the strategy needs is there."""
    if is_deepspeed(stage.trainer.strategy) and find_spec("deepspeed") is None:
        yield (
            f"{join(prefix, 'trainer.strategy')} = {stage.trainer.strategy} needs DeepSpeed, which is not installed; "
            "install kelip-lightning[deepspeed], or use ddp"
        )


def devices_exist(stage: Stage, prefix: str) -> Iterator[str]:
    """The machine has the devices that the trainer is to use."""
    import torch

    trainer: TrainerConfig = stage.trainer
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if trainer.accelerator == "gpu" and not available:
        yield f"{join(prefix, 'trainer.accelerator')} = gpu, but torch sees no GPU here; use auto or cpu"
    elif trainer.accelerator != "cpu" and 0 < available < trainer.devices:
        key = join(prefix, "trainer.devices")
        yield f"{key} = {trainer.devices}, but this machine has {available} GPU(s); use fewer"


def _missing_files(key: str, patterns: list[str]) -> Iterator[str]:
    for pattern in patterns:
        try:
            resolve_files([pattern])
        except DataError as error:
            yield f"{key}: {error}"


def _missing_shards(key: str, patterns: list[str]) -> Iterator[str]:
    try:
        resolve_shards(patterns)
    except DataError as error:
        yield f"{key}: {error}"


def _missing_file(key: str, path: str | None) -> Iterator[str]:
    if path is not None and not resolve_path(path).is_file():
        yield f"{key} = {path} does not exist; correct the path (looked for {resolve_path(path)})"
