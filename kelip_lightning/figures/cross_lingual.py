"""Figures of the cross-lingual analysis."""

from collections.abc import Sequence

import numpy as np

from kelip_lightning.analyses.cross_lingual import CONTROL, HEADLINE
from kelip_lightning.analyses.records import Findings
from kelip_lightning.figures.interval_chart import draw_interval_chart, row_of


def cross_lingual_figures(findings: Findings, names: Sequence[str]) -> dict[str, np.ndarray]:
    """One chart per caption set: the model and its control, measure by measure."""
    figures = {}
    for name in names:
        rows = [
            row_of(one, f"{measure}, {'control' if one.subject.endswith(CONTROL) else 'model'}")
            for measure in HEADLINE
            for one in findings.summary
            if one.measure == measure and one.subject in (name, f"{name}, {CONTROL}")
        ]
        figures[f"cross_lingual_{name}"] = draw_interval_chart(rows, f"{name}: 한국어 (Korean) and English captions")
    return figures
