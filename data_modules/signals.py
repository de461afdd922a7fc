"""The signals that end a run in order; without torch, which the command line imports late."""

import signal

SCHEDULER_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What a cluster sends before it takes the machine away."""
STOP_SIGNALS = (signal.SIGINT, *SCHEDULER_SIGNALS)
"""What the main process of a run answers with a checkpoint."""
