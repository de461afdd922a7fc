"""The report over all parts: report.json, and report.md with one row for each part."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from kelip_lightning.benchmarks.gpu_report.findings import Figure
from kelip_lightning.benchmarks.gpu_report.runner import LOG, Outcome, Part, ReportPlan, Status, code_note
from kelip_lightning.runs.environment import describe_environment
from kelip_lightning.runs.folder import write_whole


def write_report(parts: Sequence[Part], outcomes: Mapping[str, Outcome], plan: ReportPlan) -> list[Path]:
    """Write report.json and report.md into the plan's folder; returns both.

    Args:
        parts: All parts, in the order of the report.
        outcomes: Part -> outcome; a part without one has not run.
        plan: How they ran.
    """
    numbers, table = plan.folder / "report.json", plan.folder / "report.md"
    content = {
        "environment": describe_environment(),
        "smoke": plan.smoke,
        "parts": [
            {"part": one.name, "about": one.about, "command": command_of(one, plan), **_plain(outcomes.get(one.name))}
            for one in parts
        ],
    }
    write_whole(numbers, json.dumps(content, indent=1) + "\n")
    write_whole(table, markdown(parts, outcomes, plan))
    return [numbers, table]


def _plain(outcome: Outcome | None) -> dict[str, object]:
    if outcome is None:
        return {"status": "not run"}
    values = asdict(outcome) | {"status": outcome.status.name}
    return {name: values[name] for name in ("status", "seconds", "figures", "reasons", "code")}


def command_of(part: Part, plan: ReportPlan) -> str:
    """The command that repeats a part."""
    size = " --smoke" if plan.smoke else ""
    return f"kelip benchmark gpu --parts {part.name} --again --output {plan.folder}{size}"


def markdown(parts: Sequence[Part], outcomes: Mapping[str, Outcome], plan: ReportPlan) -> str:
    """The report as a Markdown table."""
    counts = {one: sum(outcome.status is one for outcome in outcomes.values()) for one in Status}
    size = "tiny sizes on the CPU" if plan.smoke else "on a GPU"
    lines = [
        f"# GPU report, {size}",
        "",
        "; ".join(f"{name}: {value}" for name, value in plan.machine.items()) + ".",
        "",
        ", ".join(f"{number} {one.name}" for one, number in counts.items())
        + f", {len(parts) - sum(counts.values())} not run. The log of a part is PART/{LOG}.",
        "",
        "| part | checks | status | seconds | figures | repeat |",
        "|---|---|---|---:|---|---|",
    ]
    lines += [_row(part, outcomes.get(part.name), plan) for part in parts]
    return "\n".join(lines) + "\n"


def _row(part: Part, outcome: Outcome | None, plan: ReportPlan) -> str:
    command = f"`{command_of(part, plan)}`"
    if outcome is None:
        cells = [part.name, part.about, "not run", "", "", command]
    else:
        figures = [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in outcome.figures.items()]
        status = f"{outcome.status.name}{code_note(outcome)}"
        shown = "; ".join([*outcome.reasons, *figures])
        cells = [part.name, part.about, status, f"{outcome.seconds:.0f}", shown, command]
    return f"| {' | '.join(one.replace('|', '/') for one in cells)} |"


def _shown(value: Figure) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}" if isinstance(value, float) else value
