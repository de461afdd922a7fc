"""The end of torchrun on a host that was cut off from the others."""

import os
import subprocess
import sys

_ENDING_SECONDS = 30
"""What torchrun may take to end, beyond the grace time that it gives its ranks."""
_WATCH = """
import os, select, signal, sys
agent, seconds, rank = (int(word) for word in sys.argv[1:])
watched = select.poll()
watched.register(agent, select.POLLIN)
if not watched.poll(1000 * seconds):
    print(f"kelip: torchrun still waits for the others {seconds} s after rank {rank} has lost them: killed",
          file=sys.stderr, flush=True)
    signal.pidfd_send_signal(agent, signal.SIGKILL)
"""


def end_after_peer_loss() -> "subprocess.Popen[bytes] | None":
    """Let torchrun end soon after this rank, which has lost the others and is about to end itself.

    torchrun reads from a store on the first host without a limit; where that host is gone, only the kernel gives up, a
    quarter of an hour later (`net.ipv4.tcp_retries2`). So a process outside its tree waits for its end and then kills
    it. Nothing is done if torchrun has restarts left (`--max-restarts`), or without torchrun or pidfds (Linux).
    """
    names = ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS")
    restarts, allowed = (os.environ.get(name, "") for name in names)
    if not hasattr(os, "pidfd_open") or not restarts.isdecimal() or not allowed.isdecimal():
        return None
    if int(restarts) < int(allowed):
        return None
    agent = os.pidfd_open(os.getppid())
    try:
        words = [str(agent), str(ending_seconds()), os.environ.get("RANK", "0")]
        return subprocess.Popen(
            [sys.executable, "-S", "-c", _WATCH, *words], pass_fds=[agent], stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(agent)


def ending_seconds() -> int:
    """Seconds from the loss to the end of torchrun at the latest."""
    grace = os.environ.get("PET_SHUTDOWN_TIMEOUT", "")
    return _ENDING_SECONDS + (int(grace) if grace.isdecimal() else 30)
