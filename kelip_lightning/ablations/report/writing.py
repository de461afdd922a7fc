"""Writes a study's report into its folder."""

from pathlib import Path

from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from kelip_lightning.ablations.findings import Findings
from kelip_lightning.ablations.report.markdown import markdown_report
from kelip_lightning.ablations.report.page import charts_of, html_report
from kelip_lightning.ablations.report.tables import write_tables
from kelip_lightning.ablations.study import Study


def write_report(study: Study, findings: Findings) -> Path:
    """Write report.md, report.html, the tables, plots/ and TensorBoard's hyper-parameters; returns the folder.

    A report that stands there is replaced: it says what the runs say now.
    """
    folder = study.folder
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    write_tables(folder, study, findings)
    (folder / "report.md").write_text(markdown_report(study, findings), encoding="utf-8")
    (folder / "report.html").write_text(html_report(study, findings), encoding="utf-8")
    for metric, charts in charts_of(study, findings).items():
        stem = metric.removeprefix("eval/").replace("/", "-").replace("@", "")
        for kind, svg in charts.items():
            (folder / "plots" / f"{stem}-{kind}.svg").write_text(svg + "\n", encoding="utf-8")
    _write_hyperparameters(folder / "tensorboard", study, findings)
    return folder


def _write_hyperparameters(folder: Path, study: Study, findings: Findings) -> None:
    """One entry per run on TensorBoard's HParams page: variant and seed, and the last value of every judged metric."""
    for run in study.runs:
        mine = [one for one in findings.curves if (one.variant, one.seed) == (run.variant, run.seed)]
        if not mine:
            continue
        last = {
            f"final/{one.metric.removeprefix('eval/')}": one.value for one in sorted(mine, key=lambda one: one.step)
        }
        place = folder / f"{run.variant}-{run.seed}"
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(place)) as writer:
            # Not add_hparams, which makes a second file of events.
            for summary in hparams({"variant": run.variant, "seed": run.seed}, last):
                writer.file_writer.add_summary(summary)
            for name, value in last.items():
                writer.add_scalar(name, value, mine[-1].step)
