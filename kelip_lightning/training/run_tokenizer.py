"""The tokenizer of a run: written once, before the first step, and read by whatever comes after."""

import hashlib
import logging
from dataclasses import replace
from typing import TypeVar

from data_modules.paths import resolve_path
from data_modules.text.tokenizer import BilingualTokenizer, TokenizerConfig, build_tokenizer
from kelip_lightning.config.experiment import (
    ContrastiveExperiment,
    Experiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.errors import RunFolderError
from kelip_lightning.planning.stage_plan import stages_of
from kelip_lightning.runs.folder import RunFolder, is_first_process
from kelip_lightning.runs.shared_files import wait_for, write_whole
from kelip_lightning.training.data_record import read_record

_log = logging.getLogger(__name__)

Trained = TypeVar("Trained", bound=MaskedPretrainExperiment | ContrastiveExperiment | PretrainExperiment)


def kept_tokenizer(run: RunFolder, config: TokenizerConfig) -> TokenizerConfig | None:
    """The settings that read the run's own file; None: there is none yet, and the first process has to make it.

    Every other process waits for it.

    Raises:
        RunFolderError: It was exchanged, or the first process has not made it.
    """
    if not is_first_process():
        if not run.tokenizer.is_file():
            _log.info("waiting for the first process to write %s", run.tokenizer)
        wait_for(run.tokenizer)
    if not run.tokenizer.is_file():
        return None
    _refuse_exchanged(run)
    return _reading(run, config)


def keep_tokenizer(run: RunFolder, tokenizer: BilingualTokenizer) -> None:
    """Make a tokenizer the run's, whole or not at all.

    Raises:
        RunFolderError: The run had another one, whose file is gone.
    """
    text = tokenizer.to_json()
    digest, record = _digest(text.encode()), read_record(run)
    if record is not None and record.tokenizer not in (None, digest):
        raise RunFolderError(
            f"{run.tokenizer} is gone, and what would be trained now is another one (SHA-256 {digest[:12]}..., not "
            f"{record.tokenizer[:12]}...); restore the file"
        )
    write_whole(run.tokenizer, text)
    if record is not None:
        write_whole(run.data, replace(record, tokenizer=digest).to_json())


def read_tokenizer(run: RunFolder, context_length: int) -> BilingualTokenizer:
    """The run's tokenizer.

    Raises:
        RunFolderError: The run keeps none, or it was exchanged.
        DataError: The file is damaged.
    """
    if not run.tokenizer.is_file():
        raise RunFolderError(
            f"{run.path} has no {run.tokenizer.name}: it was begun by a version that kept none, or has not begun to "
            f"train; put the tokenizer that it was trained with at {run.tokenizer}"
        )
    _refuse_exchanged(run)
    return BilingualTokenizer.from_file(run.tokenizer, context_length)


def refuse_other_tokenizer(run: RunFolder, experiment: Experiment) -> None:
    """The run's copy must be as it was written, and the configured file, if it is still there, what was copied.

    Raises:
        RunFolderError: One of them holds another tokenizer.
    """
    stage = stages_of(experiment).get("contrastive")
    if not isinstance(stage, ContrastiveExperiment) or not run.tokenizer.is_file():
        return
    _refuse_exchanged(run)
    config = stage.tokenizer
    if config.file is None or not resolve_path(config.file).is_file():
        return
    own = BilingualTokenizer.from_file(run.tokenizer, config.context_length)
    if build_tokenizer(config, []).to_json() != own.to_json():
        raise RunFolderError(
            f"tokenizer.file = {config.file} is no longer the tokenizer that {run.path} was begun with, which stands "
            f"in {run.tokenizer}; restore the file or begin a new run with name=NEW_NAME: a model cannot change "
            "its tokenizer"
        )


def with_own_tokenizer(run: RunFolder, experiment: Trained) -> Trained:
    """The experiment with the run's copy in place of a configured tokenizer file, which may be gone by now."""
    if isinstance(experiment, PretrainExperiment):
        return replace(experiment, contrastive=with_own_tokenizer(run, experiment.contrastive))
    if not isinstance(experiment, ContrastiveExperiment):
        return experiment
    if experiment.tokenizer.file is None or not run.tokenizer.is_file():
        return experiment
    return replace(experiment, tokenizer=_reading(run, experiment.tokenizer))


def _reading(run: RunFolder, config: TokenizerConfig) -> TokenizerConfig:
    return replace(config, file=str(run.tokenizer.absolute()))


def _refuse_exchanged(run: RunFolder) -> None:
    record = read_record(run)
    if record is None or record.tokenizer is None:
        return
    if _digest(run.tokenizer.read_bytes()) != record.tokenizer:
        raise RunFolderError(
            f"{run.tokenizer} is not the file that the run was begun with (SHA-256 {record.tokenizer[:12]}... in "
            f"{run.data.name}); restore it: a model cannot change its tokenizer"
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
