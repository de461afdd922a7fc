"""Statistics of paired samples: bootstrap intervals, significance tests, the power of a study."""

CONFIDENCE = 0.95
"""Coverage of every reported interval."""
ALPHA = 0.05
"""Significance level of every test: 1 - `CONFIDENCE`."""
