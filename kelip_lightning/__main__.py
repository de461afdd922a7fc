"""Where `kelip` and `python -m kelip_lightning` begin and end.

A scheduler's signal at any moment between the first line here and the end of the process has the documented exit code
(docs/faults.md): during imports this module's handler answers it, then the verb's, and after the verb it is ignored.
Imports nothing slow.
"""

import atexit
import os
import signal
import sys
from types import FrameType

STOPPED = 75
"""Exit code of a process that the scheduler stopped (EX_TEMPFAIL of sysexits.h), as `cli.failures.REQUEUE`."""
_INTERRUPTED = 130


def run() -> int:
    """Run the command line; returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _stop_at_once)
    try:
        from kelip_lightning.cli import main

        code = main()
    except KeyboardInterrupt:  # during the imports
        os.write(2, b"kelip: interrupted\n")
        code = _INTERRUPTED
    finally:
        # While CPython ends it puts the system's handlers back, which would kill; what is ignored stays ignored.
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    if code == _INTERRUPTED:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End now. CPython would end by the signal itself if Ctrl-C came while it ran a text, as the import of a dataclass
    does, though the exception was caught since.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stop_at_once(number: int, _: FrameType | None) -> None:
    """Nothing has begun that would have to be ended in order."""
    os.write(2, f"kelip: {signal.Signals(number).name} received before anything had begun\n".encode())
    os._exit(STOPPED)


if __name__ == "__main__":
    sys.exit(run())
