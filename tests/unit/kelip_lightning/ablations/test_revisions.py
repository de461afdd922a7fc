"""A study uses the runs of its own code, and of other code where it is told to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kelip_lightning.ablations.findings import collect
from kelip_lightning.ablations.pool import find_run
from kelip_lightning.ablations.revisions import Revision, refuse_other_revisions, revisions_of
from kelip_lightning.ablations.study import PlannedRun, Study
from kelip_lightning.cli import main
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.environment import code_digest, describe_environment
from kelip_lightning.runs.folder import RunFolder

OLD = {"git": {"revision": "0123456789abcdef", "dirty": False}, "code": "fedcba987654"}


def _record(folder: RunFolder, environment: dict[str, Any]) -> None:
    folder.environment.write_text(json.dumps(environment), encoding="utf-8")


@pytest.fixture
def trained(study: Study, finish: Callable[..., None]) -> Callable[[int, dict[str, Any]], PlannedRun]:
    """A finished run of the study with this environment."""

    def write(number: int, environment: dict[str, Any]) -> PlannedRun:
        run = study.runs[number]
        finish(run, 0.5)
        _record(find_run(study.pool, run), environment)
        return run

    return write


def test_refuse_other_revisions__names_both_and_the_ways_out(
    study: Study, trained: Callable[[int, dict[str, Any]], PlannedRun]
) -> None:
    run = trained(0, OLD)
    trained(1, OLD)
    trained(2, describe_environment())
    with pytest.raises(RunFolderError) as caught:
        refuse_other_revisions(study.pool, study.runs, [])
    told = str(caught.value)
    assert f"{run.name} and 1 more by 0123456789 (code fedcba987654)" in told
    assert f"and this is {Revision.of_now()}" in told
    assert code_digest() in told
    assert "--accept-revision 0123456789," in told
    assert "--output FOLDER" in told
    for accepted in ("any", "0123456789", "0123456", "0123456789abcdef", "fedcba987654"):
        refuse_other_revisions(study.pool, study.runs, [accepted])
    for other in ("012345", "1234567", ""):
        with pytest.raises(RunFolderError, match="trained by another revision"):
            refuse_other_revisions(study.pool, study.runs, [other])


def test_refuse_other_revisions__a_commit_that_changes_no_code_is_none(
    study: Study, trained: Callable[[int, dict[str, Any]], PlannedRun]
) -> None:
    trained(0, OLD | {"code": code_digest()})
    trained(1, {"git": {"revision": None, "dirty": None}, "code": code_digest()})
    refuse_other_revisions(study.pool, study.runs, [])


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        (
            {"git": {"revision": "0123456789abcdef", "dirty": True}, "code": "aaaabbbbcccc"},
            "0123456789+changes.aaaabbbbcccc",
        ),
        ({"git": {"revision": "0123456789abcdef", "dirty": True}}, "0123456789+changes"),
        ({"git": {"revision": None, "dirty": None}, "code": "aaaabbbbcccc"}, "unknown.aaaabbbbcccc"),
        ({"git": {"revision": "0123456789abcdef", "dirty": False}}, "0123456789"),
        ({}, "unknown"),
    ],
)
def test_refuse_other_revisions__changed_and_unknown_code_is_accepted_by_its_whole_name(
    environment: dict[str, Any],
    shown: str,
    study: Study,
    trained: Callable[[int, dict[str, Any]], PlannedRun],
) -> None:
    trained(0, environment)
    with pytest.raises(RunFolderError, match=rf"--accept-revision {shown.replace('+', '.')},"):
        refuse_other_revisions(study.pool, study.runs, ["deadbeef0"])
    refuse_other_revisions(study.pool, study.runs, [shown])
    if "+" in shown:
        with pytest.raises(RunFolderError):
            refuse_other_revisions(study.pool, study.runs, ["0123456789"])


def test_revisions_of__a_resumed_run_has_all_of_them(
    study: Study, trained: Callable[[int, dict[str, Any]], PlannedRun]
) -> None:
    run = trained(0, describe_environment())
    folder = find_run(study.pool, run)
    lines = [{"environment": one} for one in (describe_environment(), OLD, OLD)]
    whole = "".join(json.dumps(line) + "\n" for line in lines)
    (folder.path / "resumes.jsonl").write_text(f'{whole}{{"environ', encoding="utf-8")
    assert revisions_of(folder) == [Revision.of_now(), Revision.of(OLD)]
    with pytest.raises(RunFolderError, match="by 0123456789"):
        refuse_other_revisions(study.pool, study.runs, [])
    records = {one.folder: one.revision for one in collect(study).runs}
    assert records[run.name] == f"{Revision.of_now()} then 0123456789"


def test_ablate__refuses_before_it_trains_and_reports_what_is_accepted(
    study: Study,
    study_file: Path,
    trained: Callable[[int, dict[str, Any]], PlannedRun],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(2):
        trained(number, OLD)
    command = ["ablate", str(study_file), "--output", str(study.output), "--seeds", "2"]
    for also in ([], ["--report"], ["--dry-run"]):
        assert main([*command, *also]) == 2
        assert "were trained by another revision of the code" in capsys.readouterr().err
    assert main([*command, "--report", "--accept-revision", "0123456"]) == 0
    assert "report.html" in capsys.readouterr().out
