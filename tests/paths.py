"""Where the repository and the fixtures lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
FIXTURES = ROOT / "tests" / "fixtures"
