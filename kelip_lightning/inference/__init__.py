"""Trained models in use: building one from a folder, zero-shot prediction, evaluation of a run."""
