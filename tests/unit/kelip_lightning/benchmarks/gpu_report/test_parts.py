"""The table of parts."""

import pkgutil

from kelip_lightning.benchmarks.gpu_report.parts import PARTS


def test_parts__all_exist_and_take_at_most_ten_minutes() -> None:
    assert all(callable(pkgutil.resolve_name(part.work)) for part in PARTS)
    assert len({part.name for part in PARTS}) == len(PARTS)
    assert sum(part.seconds for part in PARTS) <= 600
