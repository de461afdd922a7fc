"""Tensor operations and synchronisations of whole training steps on a substitute for a GPU."""
