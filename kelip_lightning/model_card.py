"""The README that stands in a folder of weights, written from the run's own record."""

import json
from collections.abc import Mapping

from kelip_lightning.run_folder import RunFolder


def model_card(run: RunFolder, stage: str, facts: Mapping[str, object]) -> str:
    """What the weights are, what they were trained on and with which code, in Markdown.

    Args:
        run: The run; its environment.json gives the code's revision.
        stage: `mae` or `contrastive`.
        facts: Further lines, name -> value.
    """
    environment = json.loads(run.environment.read_text(encoding="utf-8"))
    lines = {
        "Run": run.path.name,
        "Stage": {"mae": "MAE warm-up of the image encoder", "contrastive": "contrastive training"}[stage],
        **facts,
        "Code": f"kelip-lightning, git revision {(environment.get('git') or {}).get('revision') or 'unknown'}",
        "Settings": "config.yaml in the run folder",
        "Licence": "Apache-2.0 for the code; see the licences of the training data",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in lines.items())
    return f"# {run.path.name}: {stage}\n\n| what | value |\n|---|---|\n{table}\n"
