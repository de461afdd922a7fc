"""Evaluation sets and the stimuli of the analyses, ready to embed."""
