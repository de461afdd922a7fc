"""The files of a benchmark: its numbers as JSON with the machine and the versions, and one plot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from kelip_lightning.drawing.charts import ChartRow, interval_chart
from kelip_lightning.runs.environment import describe_environment
from kelip_lightning.runs.folder import write_whole


def write_benchmark(
    folder: Path, name: str, content: Mapping[str, Any], rows: Sequence[ChartRow], title: str
) -> list[Path]:
    """Write NAME.json, and NAME.png if there are rows; returns the files.

    Args:
        folder: Made if it does not exist.
        name: Of the benchmark.
        content: Plain values; the environment is added.
        rows: Of the plot.
        title: Its heading.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers, plot = folder / f"{name}.json", folder / f"{name}.png"
    write_whole(numbers, json.dumps({"environment": describe_environment(), **content}, indent=1) + "\n")
    if not rows:
        return [numbers]
    Image.fromarray(interval_chart(rows, title)).save(plot)
    return [numbers, plot]
