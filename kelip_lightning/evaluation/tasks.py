"""Names of evaluation tasks that others tell apart, without importing what computes them."""

MATCHED_MINUS_RANDOM = "matched_minus_random"
"""Ends the task whose outcomes are differences of cosines instead of ranks, of a caption set as a whole."""
