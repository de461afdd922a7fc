"""Run folders: their layout, checkpoints, records, and the process that owns one."""
