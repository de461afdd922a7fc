"""Layouts of evaluation sets on disk, each opened as a `SampleTable`."""
