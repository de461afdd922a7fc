"""Placeholder until the layouts are merged."""

from typing import Any


def read_class_files(*_: Any) -> tuple[list[str], list[str]]:
    raise NotImplementedError
