"""Weights and settings in the layouts of other libraries, in and out: one file per format.

Each format says which of our tensors is which of theirs (`key_map`), how the configuration is spelled there, and in one
sentence what it cannot express.
"""
