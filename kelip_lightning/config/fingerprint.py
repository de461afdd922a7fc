"""Short names of what was trained, and on what it was evaluated: equal settings, equal fingerprint.

Which settings count stands beside their fields; see `data_modules.config_roles`.
"""

import hashlib
import json
from typing import Any

from data_modules.benchmarks.evaluation_sets import EvaluationConfig
from kelip_lightning.config.experiment import Experiment
from kelip_lightning.config.roles import identity_of


def training_fingerprint(experiment: Experiment) -> str:
    """Twelve hexadecimal digits of everything in an experiment that may change the trained weights."""
    return _digest(identity_of(experiment))


def evaluation_fingerprint(evaluation: EvaluationConfig) -> str:
    """Twelve hexadecimal digits of the evaluation sets; when they are used does not count."""
    return _digest(identity_of(evaluation))


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]
