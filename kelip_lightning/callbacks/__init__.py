"""Callbacks of the Trainer: when something happens during a run, and where its result goes."""
