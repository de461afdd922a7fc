"""Statistics of paired samples: bootstrap intervals, significance tests, the power of a study."""
