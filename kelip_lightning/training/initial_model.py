"""Contrastive training that begins from a model: `init.model`, and the report on what was loaded."""

import json
import logging
from dataclasses import asdict
from typing import Any

from torch import nn

from data_modules.text.config import TokenizerConfig
from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.config.experiment import ContrastiveExperiment, InitConfig
from kelip_lightning.errors import EncoderFileError, RunFolderError
from kelip_lightning.interchange.initial_model import (
    InitialModel,
    LoadReport,
    load_initial_weights,
    read_initial_model,
)
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.locking import lock_encoders
from kelip_lightning.models.model_folder import fresh_dual_encoder
from kelip_lightning.runs.folder import RunFolder, is_first_process, write_whole

_log = logging.getLogger(__name__)

TEXT_RECORD = "text_encoder_record"
"""Key of the architecture of a Hugging Face text encoder in initial_model.json."""


def read_model_of(init: InitConfig, tokenizer: TokenizerConfig) -> InitialModel:
    """The model of `init.model`, which must be the one that the experiment was checked with.

    Raises:
        EncoderFileError: It is missing or damaged, or its content is another.
        DataError: Its tokenizer is damaged.
    """
    assert init.model is not None
    try:
        initial = read_initial_model(init.model, tokenizer.file)
    except EncoderFileError as error:
        raise EncoderFileError(f"init.model = {init.model}: {error}") from error
    if init.model_sha256 not in (None, initial.sha256):
        raise EncoderFileError(
            f"init.model = {init.model} has changed: its SHA-256 is {initial.sha256}, and this run began with "
            f"{init.model_sha256}; restore it, or start a new run with name=NEW_NAME"
        )
    return initial


def build_from_model(
    experiment: ContrastiveExperiment, tokenizer: BilingualTokenizer, run: RunFolder | None, *, resumed: bool
) -> DualEncoder:
    """A dual encoder with the weights of `init.model`; logs and writes the report.

    Args:
        experiment: The stage.
        tokenizer: The run's copy of the model's tokenizer.
        run: Where rank zero writes initial_model.json; `None`: nowhere.
        resumed: Whether a checkpoint will replace the weights: they stay random, and the model is not read.

    Raises:
        EncoderFileError: The model is missing or damaged, or is not the one that the run began with.
        RunFolderError: The report of a resumed run is damaged.
    """
    initial = None if resumed else read_model_of(experiment.init, experiment.tokenizer)
    record = initial.model.text_encoder.record() if initial else stored_text_record(run)
    model = fresh_dual_encoder(
        experiment.image_encoder, experiment.text_encoder, experiment.dual_encoder, tokenizer, record
    )
    if initial is None:
        return model
    loaded = load_initial_weights(model, initial)
    report = _report(experiment, initial, loaded, model)
    for line in _lines(report):
        _log.info("%s", line)
    if run is not None and is_first_process():
        write_whole(run.initial_model, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return model


def stored_text_record(run: RunFolder | None) -> dict[str, Any] | None:
    """The architecture of the Hugging Face text encoder of the model that a run began from; `None`: it has none.

    Raises:
        RunFolderError: initial_model.json is damaged.
    """
    if run is None or not run.initial_model.is_file():
        return None
    try:
        record: dict[str, Any] | None = json.loads(run.initial_model.read_text(encoding="utf-8")).get(TEXT_RECORD)
    except (OSError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{run.initial_model} is damaged ({error}); restore it") from error
    return record


def _report(
    experiment: ContrastiveExperiment, initial: InitialModel, loaded: LoadReport, model: DualEncoder
) -> dict[str, Any]:
    """The content of initial_model.json; sets which parameters are trained."""
    lock_encoders(model, **experiment.init.locks)
    towers = {"image_encoder": model.image_encoder, "text_encoder": model.text_encoder}
    trained = {name: _count_trained(tower) for name, tower in towers.items()}
    mean, std = initial.folded or (None, None)
    tokenizer = {"vocab_size": initial.tokenizer.vocab_size, "special_tokens": list(initial.tokenizer.specials)}
    report: dict[str, Any] = {
        "model": initial.name,
        "folder": str(initial.folder.resolve()),
        "layout": initial.layout,
        "sha256": initial.sha256,
        **asdict(loaded),
        "folded_mean_and_std": None if mean is None else [mean, std],
        "temperature": 1 / initial.model.scale().item(),
        "tokenizer": tokenizer | {"context_length": experiment.tokenizer.context_length},
        "trained_parameters": trained,
        "not_carried_over": ["optimizer state", "step of the schedule", "order of the data", "moving averages"],
    }
    if (record := model.text_encoder.record()) is not None:
        report[TEXT_RECORD] = record
    return report


def _count_trained(tower: nn.Module) -> str:
    parameters = list(tower.parameters())
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    return f"{trained} of {sum(one.numel() for one in parameters)}"


def _lines(report: dict[str, Any]) -> list[str]:
    """The report for the log."""
    lines = [
        f"began from {report['model']} ({report['layout']}, SHA-256 {report['sha256'][:12]}...): "
        f"{report['tensors']} tensors, {report['parameters']:,} parameters, temperature {report['temperature']:.4g}, "
        f"its tokenizer of {report['tokenizer']['vocab_size']:,} tokens"
    ]
    lines += [f"positions resampled: {name} {change}" for name, change in report["resampled"].items()]
    if report["new"]:
        lines.append(f"new, since the model has none: {', '.join(report['new'])}")
    if report["left_out"]:
        lines.append(f"left out, since the loss does not use it: {', '.join(report['left_out'])}")
    if report["folded_mean_and_std"] is not None:
        mean, std = report["folded_mean_and_std"]
        lines.append(f"its mean {list(mean)} and deviation {list(std)} of pixels are part of the patch embedding now")
    lines += [f"trained parameters of {name}: {count}" for name, count in report["trained_parameters"].items()]
    return lines
