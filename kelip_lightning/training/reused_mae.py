"""MAE pre-training that another run has finished, copied into a new run instead of trained again.

The new run's files are those that it would have written itself, but for the checkpoints: the exported encoder, the
report of the probes, TensorBoard's events, and the stage's lines of metrics.jsonl; mae/reused.json names the run.
"""

import json
import logging
import os
import shutil

from data_modules.sources.fingerprint import all_source_changes
from kelip_lightning.config.experiment import MaskedPretrainExperiment, PretrainExperiment
from kelip_lightning.config.load import difference_by_effect, find_schema, load_experiment
from kelip_lightning.config.paths import adopt_moved
from kelip_lightning.errors import ConfigError, RunFolderError
from kelip_lightning.runs.environment import code_digest
from kelip_lightning.runs.folder import RunFolder, is_first_process, write_whole
from kelip_lightning.runs.metrics_file import cut_record, lines_of_stage
from kelip_lightning.training.provenance import DataRecord, read_record

_log = logging.getLogger(__name__)

OPTION = "--mae-from"
REUSED = "reused.json"
"""In the folder of the stage; names the run that trained it."""
_STAGE = "mae"


def check_reusable(source: RunFolder, experiment: PretrainExperiment, data: DataRecord) -> None:
    """Whether a run has finished the MAE pre-training that an experiment asks for: same settings, seed and data.

    Another revision of the code is accepted with a warning.

    Args:
        source: The run that trained it, by `kelip pretrain` or `kelip mae`.
        experiment: The experiment of the new run, as written.
        data: What the new run reads.

    Raises:
        ConfigError: The experiment has no MAE pre-training.
        RunFolderError: There is no such run, it has not finished MAE pre-training, or another one was asked for.
    """
    if experiment.mae is None:
        raise ConfigError(
            [f"{OPTION} {source.path}: this experiment has no MAE pre-training (mae is null); leave it out"]
        )
    if not source.config.is_file():
        raise RunFolderError(f"{OPTION} {source.path}: no run folder, since it has no {source.config.name}; give one")
    if not source.has_finished(_STAGE):
        raise RunFolderError(
            f"{OPTION} {source.path}: this run has not finished MAE pre-training; wait for it, or leave {OPTION} out"
        )
    original = _masked_pretrain_of(source)
    list(adopt_moved(original, experiment.mae))  # their content is compared below
    different, _ = difference_by_effect(original, experiment.mae)
    if different:
        raise RunFolderError(
            f"{OPTION} {source.path}: its MAE pre-training had other settings ({'; '.join(different)}); give a run "
            f"with the same ones, or leave {OPTION} out"
        )
    record = read_record(source)
    changes = list(all_source_changes(record.sources.get(_STAGE, {}), data.sources[_STAGE])) if record else ["unknown"]
    if changes:
        raise RunFolderError(
            f"{OPTION} {source.path}: its MAE pre-training saw other data ({'; '.join(changes)}); leave {OPTION} out"
        )
    if (code := _code_of(source)) != code_digest():
        _log.warning(
            "%s was trained by another revision of the code (code %s, and this is %s)", source.path, code, code_digest()
        )


def reuse(source: RunFolder, run: RunFolder) -> None:
    """Copy the stage that `check_reusable` has accepted; the first process does, and the last step is atomic.

    Args:
        source: The run that trained it.
        run: A run that has not begun MAE pre-training.

    Raises:
        RunFolderError: The stage cannot be read or written.
    """
    if not is_first_process():
        return
    stage = run.stage(_STAGE)
    partial = stage.path.with_name(f"{_STAGE}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        trained = source.stage(_STAGE)
        shutil.copytree(trained.path, partial, ignore=shutil.ignore_patterns(trained.checkpoints.name))
        origin = {"run": str(source.path.absolute()), "code": _code_of(source)}
        write_whole(partial / REUSED, json.dumps(origin, indent=2, ensure_ascii=False) + "\n")
        cut_record(run.metrics, _STAGE, None)
        with run.metrics.open("ab") as file:
            file.writelines(lines_of_stage(source.metrics, _STAGE))
        os.replace(partial, stage.path)
    except OSError as error:
        raise RunFolderError(
            f"MAE pre-training of {source.path} cannot be copied into {run.path} ({error.strerror or error}); make "
            f"room, or leave {OPTION} out"
        ) from error
    _log.info("MAE pre-training of %s is reused", source.path)


def _masked_pretrain_of(source: RunFolder) -> MaskedPretrainExperiment:
    schema = find_schema(source.config, (PretrainExperiment, MaskedPretrainExperiment))
    whole = load_experiment(source.config, [], schema, on_this_machine=False, stored=True).experiment
    stage = whole.mae if isinstance(whole, PretrainExperiment) else whole
    assert isinstance(stage, MaskedPretrainExperiment), "a run that has finished the stage has it in its config"
    return stage


def _code_of(source: RunFolder) -> str | None:
    """Digest of the code that created a run; `None`: not recorded."""
    try:
        found = json.loads(source.environment.read_text(encoding="utf-8"))["code"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found)
