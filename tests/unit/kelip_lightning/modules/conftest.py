"""Captures what a module logs without a Trainer."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest


@pytest.fixture
def record_logs(monkeypatch: pytest.MonkeyPatch) -> Callable[[pl.LightningModule], dict[str, float]]:
    """Replaces `log` and `log_dict` of a module; the returned dict fills as the module logs."""

    def record(module: pl.LightningModule) -> dict[str, float]:
        logged: dict[str, float] = {}

        def log(name: str, value: Any, **_: Any) -> None:
            logged[name] = float(value)

        monkeypatch.setattr(module, "log", log)
        monkeypatch.setattr(module, "log_dict", lambda values, **_: [log(*item) for item in values.items()])
        return logged

    return record
