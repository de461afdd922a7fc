"""The TensorBoard pages of a run as pictures, to look at."""
