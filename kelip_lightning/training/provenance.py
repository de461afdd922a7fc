"""What a run began with: fingerprints of its data (data.json) and its tokenizer, both checked when it is resumed."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from data_modules.benchmarks.evaluation_sets import evaluation_fingerprints
from data_modules.benchmarks.probe_sets import probe_fingerprints
from data_modules.paths import resolve_path
from data_modules.sources.fingerprint import (
    FileFingerprint,
    SourceFingerprint,
    all_source_changes,
    file_changes,
    source_fingerprints,
    text_fingerprint,
)
from data_modules.sources.rows import PairSource
from data_modules.text.config import TokenizerConfig
from data_modules.text.normalization import NORMALIZATION
from data_modules.text.tokenizer import BilingualTokenizer, build_tokenizer
from kelip_lightning.config.experiment import (
    ContrastiveExperiment,
    Experiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.errors import RunFolderError
from kelip_lightning.planning.stage_plan import Stage, stages_of
from kelip_lightning.runs.checkpoints import checkpoint_folders
from kelip_lightning.runs.folder import RunFolder, is_first_process, wait_for, write_whole

_log = logging.getLogger(__name__)

ACCEPT = "--accept-changed-data"
Trained = TypeVar("Trained", bound=Stage | PretrainExperiment)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """Fingerprints of everything that a run reads."""

    sources: Mapping[str, Mapping[str, SourceFingerprint]]
    """Stage -> source -> fingerprint."""
    templates: FileFingerprint | None = None
    """The configured file of caption templates."""
    evaluation: Mapping[str, tuple[FileFingerprint, ...]]
    """Evaluation set -> its files."""
    tokenizer: str | None = None
    """SHA-256 of the run's tokenizer.json; `None`: there is none."""

    def to_json(self) -> str:
        """The text of data.json."""
        plain = {
            "sources": {
                stage: {name: one.to_plain() for name, one in sources.items()}
                for stage, sources in self.sources.items()
            },
            "templates": self.templates and self.templates.to_plain(),
            "evaluation": {name: [file.to_plain() for file in files] for name, files in self.evaluation.items()},
            "tokenizer": self.tokenizer,
        }
        return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "DataRecord":
        """The inverse of `to_json`.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: The text is not such a record.
        """
        plain: dict[str, Any] = json.loads(text)
        templates, evaluation = plain["templates"], plain["evaluation"]
        return cls(
            sources={
                stage: {name: SourceFingerprint.from_plain(one) for name, one in sources.items()}
                for stage, sources in plain["sources"].items()
            },
            templates=None if templates is None else FileFingerprint.from_plain(templates),
            evaluation={
                name: tuple(FileFingerprint.from_plain(one) for one in files) for name, files in evaluation.items()
            },
            tokenizer=plain["tokenizer"],
        )


def describe_data(experiment: Experiment, opened: Mapping[str, Sequence[PairSource]] | None = None) -> DataRecord:
    """Fingerprints of the data that an experiment reads.

    Args:
        experiment: Of one stage or both.
        opened: Stage -> its sources, before any language rule; `None`: they are opened here.

    Raises:
        DataError: A file is missing or damaged.
    """
    stages = stages_of(experiment)
    sources = {
        name: source_fingerprints(stage.data.sources, None if opened is None else opened[name])
        for name, stage in stages.items()
    }
    mae, contrastive = stages.get("mae"), stages.get("contrastive")
    probes = probe_fingerprints(mae.probe) if isinstance(mae, MaskedPretrainExperiment) else {}
    if not isinstance(contrastive, ContrastiveExperiment):
        return DataRecord(sources=sources, evaluation=probes)
    templates = contrastive.data.captions.templates_file
    return DataRecord(
        sources=sources,
        templates=None if templates is None else text_fingerprint(templates),
        evaluation=probes | evaluation_fingerprints(contrastive.evaluation),
    )


def read_record(run: RunFolder) -> DataRecord | None:
    """The run's data.json; `None`: an earlier version created the run, which wrote none.

    Raises:
        RunFolderError: The file is damaged.
    """
    if not run.data.is_file():
        return None
    try:
        return DataRecord.from_json(run.data.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(
            f"{run.data} is damaged ({type(error).__name__}: {error}); restore it, or remove it and resume with "
            f"{ACCEPT}"
        ) from error


def check_data(run: RunFolder, found: DataRecord, *, accept: bool) -> list[str]:
    """Compare the data that a run reads now with its record, and update the record.

    Every rank compares; the first one writes. Evaluation sets, and the data of a finished stage, may differ.

    Args:
        run: A run folder that exists.
        found: Fingerprints of the data as it is now.
        accept: Whether changed training data is accepted.

    Returns:
        The differences, a sentence each.

    Raises:
        RunFolderError: The training data differs, or is not recorded, and `accept` is false.
    """
    if not is_first_process() and not _has_checkpoint(run, found.sources):
        wait_for(run.data)  # the first process may be creating the run at this moment
    before = read_record(run)
    if before is None:
        return _check_unrecorded(run, found, accept=accept)
    harmful = list(_harmful_changes(run, before, found))
    if harmful and not accept:
        raise RunFolderError(
            f"{run.path} began with other data ({'; '.join(harmful)}), which changes the order and ids of the samples: "
            f"restore the data, start a new run with name=NEW_NAME, or resume with the changed data by {ACCEPT}"
        )
    changes = [*harmful, *_harmless_changes(run, before, found)]
    if changes and is_first_process():
        for change in changes:
            _log.warning("changed data: %s", change)
        write_whole(run.data, replace(found, tokenizer=before.tokenizer).to_json())
    return [f"data: {change}" for change in changes]


def _check_unrecorded(run: RunFolder, found: DataRecord, *, accept: bool) -> list[str]:
    """A run without data.json: any data is fine as long as the run has no checkpoint."""
    changes: list[str] = []
    if _has_checkpoint(run, found.sources):
        if not accept:
            raise RunFolderError(
                f"{run.path} has no {run.data.name}, because an earlier version created it, so whether data and "
                f"tokenizer have changed is unknown; if they have not, resume with {ACCEPT}"
            )
        changes.append("data: not recorded before, assumed unchanged")
    if is_first_process():
        write_whole(run.data, found.to_json())
    return changes


def _has_checkpoint(run: RunFolder, stages: Mapping[str, object]) -> bool:
    return any(checkpoint_folders(run.stage(stage).checkpoints) for stage in stages)


def _harmful_changes(run: RunFolder, before: DataRecord, found: DataRecord) -> Iterator[str]:
    yield from _source_changes(run, before, found, finished=False)
    if before.templates != found.templates:
        yield "the caption templates changed"


def _harmless_changes(run: RunFolder, before: DataRecord, found: DataRecord) -> Iterator[str]:
    yield from _source_changes(run, before, found, finished=True)
    for name in dict.fromkeys([*before.evaluation, *found.evaluation]):
        if changes := file_changes(before.evaluation.get(name, ()), found.evaluation.get(name, ())):
            yield f"evaluation.{name}: {', '.join(changes)}"


def _source_changes(run: RunFolder, before: DataRecord, found: DataRecord, *, finished: bool) -> Iterator[str]:
    for stage in dict.fromkeys([*before.sources, *found.sources]):
        if run.has_finished(stage) is finished:
            for change in all_source_changes(before.sources.get(stage, {}), found.sources.get(stage, {})):
                yield f"{stage}: {change}"


def kept_tokenizer(run: RunFolder, config: TokenizerConfig) -> TokenizerConfig | None:
    """The configuration of the run's own tokenizer; `None`: the first process has to write it.

    Every other process waits for it.

    Raises:
        RunFolderError: It was replaced, or the first process has not written it.
    """
    if not is_first_process():
        if not run.tokenizer.is_file():
            _log.info("waiting for the first process to write %s", run.tokenizer)
        wait_for(run.tokenizer)
    if not run.tokenizer.is_file():
        return None
    _refuse_replaced(run)
    return _with_own_file(run, config)


def normalization_of(run: RunFolder) -> int:
    """Version of the normalisation with which the run's tokenizer is trained, if the run does not keep it.

    Contrastive training writes the tokenizer before its first checkpoint, except in early revisions. Those
    normalised by version 1, and the ids must be those that the weights were trained with.
    """
    record = read_record(run)
    unrecorded = record is None or record.tokenizer is None
    return 1 if unrecorded and checkpoint_folders(run.stage("contrastive").checkpoints) else NORMALIZATION


def keep_tokenizer(run: RunFolder, tokenizer: BilingualTokenizer) -> None:
    """Write the run's tokenizer, atomically.

    Raises:
        RunFolderError: The run had another one, which is missing.
    """
    text = tokenizer.to_json()
    digest, record = _digest(text.encode()), read_record(run)
    if record is not None and record.tokenizer not in (None, digest):
        raise RunFolderError(
            f"{run.tokenizer} is missing, and the data now gives another one (SHA-256 {digest[:12]}..., not "
            f"{record.tokenizer[:12]}...); restore the file: earlier revisions normalised captions differently"
        )
    write_whole(run.tokenizer, text)
    if record is not None:
        write_whole(run.data, replace(record, tokenizer=digest).to_json())


def read_tokenizer(run: RunFolder, context_length: int) -> BilingualTokenizer:
    """The run's tokenizer.

    Raises:
        RunFolderError: The run has none, or it was replaced.
        DataError: The file is damaged.
    """
    if not run.tokenizer.is_file():
        raise RunFolderError(
            f"{run.path} has no {run.tokenizer.name}: an earlier version created it, or its training has not started; "
            f"put the tokenizer that it was trained with at {run.tokenizer}"
        )
    _refuse_replaced(run)
    return BilingualTokenizer.from_file(run.tokenizer, context_length)


def refuse_other_tokenizer(run: RunFolder, experiment: Experiment) -> None:
    """Check that neither the run's copy nor the configured file, if it still exists, has changed.

    Raises:
        RunFolderError: One of them has.
    """
    stage = stages_of(experiment).get("contrastive")
    if not isinstance(stage, ContrastiveExperiment) or not run.tokenizer.is_file():
        return
    _refuse_replaced(run)
    config = stage.tokenizer
    # With init.model the run's copy has steps and special tokens that another library's file states elsewhere.
    if config.file is None or stage.init.model is not None or not resolve_path(config.file).is_file():
        return
    own = BilingualTokenizer.from_file(run.tokenizer, config.context_length)
    if build_tokenizer(config, []).to_json() != own.to_json():
        raise RunFolderError(
            f"tokenizer.file = {config.file} is no longer the tokenizer of {run.path}, which is in {run.tokenizer}; "
            "restore the file or start a new run with name=NEW_NAME: a model cannot change its tokenizer"
        )


def with_own_tokenizer(run: RunFolder, experiment: Trained) -> Trained:
    """The experiment with the run's copy in place of a configured tokenizer file, which may no longer exist."""
    if isinstance(experiment, PretrainExperiment):
        return replace(experiment, contrastive=with_own_tokenizer(run, experiment.contrastive))
    if not isinstance(experiment, ContrastiveExperiment):
        return experiment
    if experiment.tokenizer.file is None or not run.tokenizer.is_file():
        return experiment
    return replace(experiment, tokenizer=_with_own_file(run, experiment.tokenizer))


def _with_own_file(run: RunFolder, config: TokenizerConfig) -> TokenizerConfig:
    return replace(config, file=str(run.tokenizer.absolute()))


def _refuse_replaced(run: RunFolder) -> None:
    record = read_record(run)
    if record is None or record.tokenizer is None:
        return
    if _digest(run.tokenizer.read_bytes()) != record.tokenizer:
        raise RunFolderError(
            f"{run.tokenizer} is not the file that the run began with (SHA-256 {record.tokenizer[:12]}... in "
            f"{run.data.name}); restore it: a model cannot change its tokenizer"
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
