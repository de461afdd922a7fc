"""What an experiment costs, before it runs: operations, memory, time, disk. Closed formulas, nothing is executed."""
