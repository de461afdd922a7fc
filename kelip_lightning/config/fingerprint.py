"""Short names of what was trained, and on what it was evaluated: equal settings, equal fingerprint."""

import hashlib
import json
from typing import Any

from data_modules.evaluation_sets import EvaluationConfig
from kelip_lightning.config.experiment import Experiment
from kelip_lightning.config.schema import to_plain

WITHOUT_EFFECT = frozenset(
    {
        "name",
        "output_dir",
        "evaluation",
        "log_every_n_steps",
        "checkpoint",
        "num_workers",
        "timeout_minutes",
        "read_timeout_seconds",
    }
)
"""Keys that change nothing about the trained weights, wherever they stand."""

IDLE = {"self_supervision": ("method", "none"), "views": ("num_views", 0)}
"""Section -> the key that switches it, and the value at which it changes nothing about the trained weights."""


def training_fingerprint(experiment: Experiment) -> str:
    """Twelve hexadecimal digits of everything in an experiment that may change the trained weights."""
    return _digest(_without_idle(_without(to_plain(experiment), WITHOUT_EFFECT)))


def evaluation_fingerprint(evaluation: EvaluationConfig) -> str:
    """Twelve hexadecimal digits of the evaluation sets; when they are used does not count."""
    return _digest(_without(to_plain(evaluation), {"every_n_steps"}))


def _without(tree: Any, keys: "frozenset[str] | set[str]") -> Any:
    if not isinstance(tree, dict):
        return tree
    return {key: _without(value, keys) for key, value in tree.items() if key not in keys}


def _without_idle(tree: Any) -> Any:
    """Less the sections of a loss that is off and of views that are not cut, whatever else they say."""
    if not isinstance(tree, dict):
        return tree
    return {key: _without_idle(value) for key, value in tree.items() if not _is_idle(key, value)}


def _is_idle(key: str, section: Any) -> bool:
    if not isinstance(section, dict) or key not in IDLE:
        return False
    switch, off = IDLE[key]
    return bool(section[switch] == off)


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]
