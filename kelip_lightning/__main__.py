"""Where `kelip` and `python -m kelip_lightning` begin and end.

A signal at any moment between the first line here and the end of the process has the documented exit code
(docs/faults.md): until a verb installs its own handlers this module's answer it, after the verb signals are ignored.
Imports nothing slow.
"""

import os
import signal
import sys
from types import FrameType

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
"""Of a process that stops at once; 75 is EX_TEMPFAIL of sysexits.h, as `cli.failures.REQUEUE`."""


def run() -> int:
    """Run the command line; returns the exit code."""
    for number in EXIT_CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, stop_at_once)
    try:
        from kelip_lightning.cli import main

        code = main()
        if code and _has_process_group():
            end_now(code)
        return code
    finally:
        # While CPython ends it puts the system's handlers back, which would kill; what is ignored stays ignored.
        for number in EXIT_CODES:
            signal.signal(number, signal.SIG_IGN)


def _has_process_group() -> bool:
    """Whether this process is still a rank of a distributed run."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def end_now(code: int) -> None:
    """End a rank that has failed, without the destructors of its connections.

    Those wait for the other ranks, for ever if their host has been cut off, and the launcher waits for this process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def stop_at_once(number: int, _: FrameType | None) -> None:
    """End the process: nothing has begun that would have to be ended in order.

    No exception, which a library's initialisation in C++ would answer with an abort.
    """
    os.write(2, f"kelip: {signal.Signals(number).name} received before training\n".encode())
    os._exit(EXIT_CODES[signal.Signals(number)])


if __name__ == "__main__":
    sys.exit(run())
