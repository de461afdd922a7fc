"""Ablations: many runs that answer one question, and the report on them."""
