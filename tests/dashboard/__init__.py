"""Screenshots of the TensorBoard pages of a run."""
