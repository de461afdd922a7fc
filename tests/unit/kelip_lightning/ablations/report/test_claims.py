"""Claims in words, and in the written report."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kelip_lightning.ablations.claims import ClaimResult
from kelip_lightning.ablations.collect import collect
from kelip_lightning.ablations.config import ClaimConfig, Direction
from kelip_lightning.ablations.report.claims import claim_line, claim_sections
from kelip_lightning.ablations.report.writing import write_report
from kelip_lightning.ablations.study import Study

METRIC, COSINE = "eval/unseen_design_ko/image_to_text_R@1", "eval/captions/matched_minus_random"


def _result(**changes: Any) -> ClaimResult:
    values: dict[str, Any] = {
        "claim": "helps",
        "variant": "longer",
        "category": None,
        "metrics": METRIC,
        "direction": "higher",
        "verdict": "inconclusive",
        "num_seeds": 3,
        "num_items": 100,
        "difference": 0.012,
        "difference_low": -0.01,
        "difference_high": 0.034,
        "p_value": 0.2,
        "adjusted_p_value": 0.31,
        "smallest": 0.03,
        "power": 0.64,
    }
    return ClaimResult(**(values | changes))


def test_claim_line__an_inconclusive_one_says_what_is_excluded() -> None:
    assert claim_line(_result(), METRIC) == (
        "Inconclusive",
        "longer: +1.2 [-1.0, +3.4] points, corrected p 0.310; a true difference of 3.0 points is found with a power of "
        "64%. True differences above +3.4 and below -1.0 points are excluded with 95 % confidence.",
    )


@pytest.mark.parametrize(
    ("changes", "metric", "line"),
    [
        (
            {"verdict": "confirmed", "adjusted_p_value": 0.0001, "power": None, "smallest": None},
            METRIC,
            ("Confirmed", "longer: +1.2 [-1.0, +3.4] points, corrected p < 0.001."),
        ),
        (
            {"verdict": "contradicted", "power": None},
            COSINE,
            ("Contradicted", "longer: +0.012 [-0.010, +0.034], corrected p 0.310."),
        ),
        (
            {"difference_low": None, "difference_high": None, "power": None},
            METRIC,
            ("Inconclusive", "longer: +1.2 points; one seed has no interval."),
        ),
        (
            {"verdict": None, "difference": None},
            METRIC,
            ("Not run", "longer: no seed in common with the reference."),
        ),
    ],
)
def test_claim_line__others(changes: dict[str, Any], metric: str, line: tuple[str, str]) -> None:
    assert claim_line(_result(**changes), metric) == line


def test_claim_sections__name_expectation_and_metrics() -> None:
    metrics = [METRIC, METRIC.replace("_ko", "_en")]
    claim = ClaimConfig(text="It lowers.", metrics=metrics, direction=Direction.lower)
    (section,) = claim_sections([_result(claim="other"), _result(claim="own")], {"own": claim})
    assert (section.text, len(section.lines)) == ("It lowers.", 1)
    assert section.about == (
        "Expected: lower than the reference. Decided by unseen_design, ko: image to text R@1; unseen_design, en: image "
        "to text R@1 (their items together)."
    )


def test_report__has_the_claims_of_the_study(study: Study, finish: Callable[..., None]) -> None:
    claims = {
        "longer_helps": ClaimConfig(
            text="More steps raise <retrieval>.",
            metrics=[METRIC],
            variants=["longer"],
            direction=Direction.higher,
            smallest=30.0,
        ),
        "warm_harms": ClaimConfig(text="Less decay lowers it.", metrics=[METRIC], direction=Direction.lower),
    }
    own = replace(study, scale=replace(study.scale, claims=claims))
    for run in own.runs:
        finish(run, {"plain": 0.3, "longer": 0.8, "warm": 0.31}[run.variant])
    report = collect(own)
    verdicts = [(one.claim, one.variant, one.verdict) for one in report.claims]
    assert verdicts == [
        ("longer_helps", "longer", "confirmed"),
        ("warm_harms", "longer", "contradicted"),
        ("warm_harms", "warm", "inconclusive"),
    ]
    folder = write_report(own, report)
    text, page = ((folder / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    assert "\n### More steps raise <retrieval>.\n" in text
    assert "<h3>More steps raise &lt;retrieval&gt;.</h3>" in page
    for one in report.claims:
        word, sentence = claim_line(one, METRIC)
        assert f"\n- **{word}**, {sentence}\n" in text
        assert f"<li><strong>{word}</strong>, {sentence.replace('<', '&lt;')}</li>" in page
    with (folder / "claims.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    stored = json.loads((folder / "results.json").read_text(encoding="utf-8"))["claims"]
    assert rows == [{key: "" if value is None else str(value) for key, value in one.items()} for one in stored]
    assert [float(row["difference"]) for row in rows] == [one.difference for one in report.claims]


def test_report__without_claims_has_no_section(study: Study, finish: Callable[..., None]) -> None:
    for run in study.runs:
        finish(run, 0.3 + 0.1 * (run.variant == "longer"))
    folder = write_report(study, collect(study))
    assert "## Claims" not in (folder / "report.md").read_text(encoding="utf-8")
    assert "<h2>Claims</h2>" not in (folder / "report.html").read_text(encoding="utf-8")
