"""Which samples make up a global batch: a pure function of the seed and the step."""
