"""Everything about a run folder: its layout, checkpoints, metrics file, and the process that owns it."""
