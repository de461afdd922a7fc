"""What a run was begun with: its data and its tokenizer, kept in `data.json`, compared when the run goes on."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_modules.benchmarks.evaluation_sets import evaluation_fingerprints
from data_modules.sources.fingerprint import (
    FileFingerprint,
    SourceFingerprint,
    all_source_changes,
    file_changes,
    source_fingerprints,
    text_fingerprint,
)
from data_modules.sources.rows import PairSource
from kelip_lightning.config.experiment import ContrastiveExperiment, Experiment
from kelip_lightning.errors import RunFolderError
from kelip_lightning.planning.stage_plan import stages_of
from kelip_lightning.runs.checkpoints import checkpoint_folders
from kelip_lightning.runs.folder import RunFolder, is_first_process
from kelip_lightning.runs.shared_files import wait_for, write_whole

_log = logging.getLogger(__name__)

ACCEPT = "--accept-changed-data"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """What is known of everything that a run reads, without reading it."""

    sources: Mapping[str, Mapping[str, SourceFingerprint]]
    """Stage -> source -> fingerprint."""
    templates: FileFingerprint | None = None
    """The file of caption templates, if one is configured."""
    evaluation: Mapping[str, tuple[FileFingerprint, ...]]
    """Evaluation set -> its files."""
    tokenizer: str | None = None
    """SHA-256 of the run's tokenizer.json; none: there is none yet, or the run needs none."""

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
            ValueError, TypeError, KeyError, AttributeError: The text is no such record.
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
    """The record of what an experiment would read now.

    Args:
        experiment: Of one stage or both.
        opened: Stage -> its sources, before any language rule; none: they are opened here.

    Raises:
        DataError: A file is missing or damaged.
    """
    stages = stages_of(experiment)
    sources = {
        name: source_fingerprints(stage.data.sources, None if opened is None else opened[name])
        for name, stage in stages.items()
    }
    contrastive = stages.get("contrastive")
    if not isinstance(contrastive, ContrastiveExperiment):
        return DataRecord(sources=sources, evaluation={})
    templates = contrastive.data.captions.templates_file
    return DataRecord(
        sources=sources,
        templates=None if templates is None else text_fingerprint(templates),
        evaluation=evaluation_fingerprints(contrastive.evaluation),
    )


def read_record(run: RunFolder) -> DataRecord | None:
    """The record that a run keeps; none: it was begun by a version that kept none.

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


def settle_data(run: RunFolder, found: DataRecord, *, accept: bool) -> list[str]:
    """Compare what a resumed run would read now with what it was begun with, and keep the new record.

    Every rank compares; the first one writes. Evaluation sets, and the data of a stage that has ended, may differ.

    Args:
        run: The run, begun before.
        found: What would be read now.
        accept: Whether the user has said that other training data is meant.

    Returns:
        What differs, a sentence each.

    Raises:
        RunFolderError: The training data differs, or nothing is known of it, and the user has not accepted that.
    """
    if not is_first_process() and not _has_checkpoint(run, found.sources):
        wait_for(run.data)  # the first process may be creating the run at this moment
    before = read_record(run)
    if before is None:
        return _settle_unrecorded(run, found, accept=accept)
    harmful = list(_harmful_changes(run, before, found))
    if harmful and not accept:
        raise RunFolderError(
            f"{run.path} was begun with other data ({'; '.join(harmful)}); the samples would come in another order and "
            f"under other numbers: restore the data, begin a new run with name=NEW_NAME, or go on with it all the same "
            f"with {ACCEPT}"
        )
    changes = [*harmful, *_harmless_changes(run, before, found)]
    if changes and is_first_process():
        for change in changes:
            _log.warning("other data than before: %s", change)
        write_whole(run.data, replace(found, tokenizer=before.tokenizer).to_json())
    return [f"data: {change}" for change in changes]


def _settle_unrecorded(run: RunFolder, found: DataRecord, *, accept: bool) -> list[str]:
    """A run that keeps no record of its data: harmless as long as nothing was learnt from it."""
    changes: list[str] = []
    if _has_checkpoint(run, found.sources):
        if not accept:
            raise RunFolderError(
                f"{run.path} has no {run.data.name}, as it was begun by a version that kept none, so that nobody can "
                f"tell whether data and tokenizer are those of before; if they are, go on with {ACCEPT}"
            )
        changes.append("data: not recorded before, and taken to be unchanged")
    if is_first_process():
        write_whole(run.data, found.to_json())
    return changes


def _has_checkpoint(run: RunFolder, stages: Mapping[str, object]) -> bool:
    return any(checkpoint_folders(run.path / stage / "checkpoints") for stage in stages)


def _harmful_changes(run: RunFolder, before: DataRecord, found: DataRecord) -> Iterator[str]:
    for stage in _stages(before, found):
        if not run.has_finished(stage):
            yield from _stage_changes(stage, before, found)
    if before.templates != found.templates:
        yield "the caption templates changed"


def _harmless_changes(run: RunFolder, before: DataRecord, found: DataRecord) -> Iterator[str]:
    for stage in _stages(before, found):
        if run.has_finished(stage):
            yield from _stage_changes(stage, before, found)
    for name in dict.fromkeys([*before.evaluation, *found.evaluation]):
        if changes := file_changes(before.evaluation.get(name, ()), found.evaluation.get(name, ())):
            yield f"evaluation.{name}: {', '.join(changes)}"


def _stages(before: DataRecord, found: DataRecord) -> list[str]:
    return list(dict.fromkeys([*before.sources, *found.sources]))


def _stage_changes(stage: str, before: DataRecord, found: DataRecord) -> Iterator[str]:
    for change in all_source_changes(before.sources.get(stage, {}), found.sources.get(stage, {})):
        yield f"{stage}: {change}"
