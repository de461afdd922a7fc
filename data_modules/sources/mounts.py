"""Which local paths lie on a network file system, where every read waits for an answer."""

import functools
import os
import re
from pathlib import Path

NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "9p", "wekafs", "pvfs2"}
)
"""Types of network file systems. File systems in user space (`fuse.*`) count too: most of them are remote."""
_MOUNTS = Path("/proc/self/mountinfo")


def is_on_network(path: str) -> bool:
    """Whether a file lies on a network file system; false where the system does not tell (`/proc` is Linux's)."""
    return _is_network_folder(os.path.dirname(os.path.abspath(path)))


@functools.lru_cache(maxsize=4096)
def _is_network_folder(folder: str) -> bool:
    kind = next((kind for point, kind in mounts() if _is_below(os.path.realpath(folder), point)), "")
    return kind in NETWORK or kind.startswith("fuse.")


@functools.lru_cache(maxsize=1)
def mounts() -> tuple[tuple[str, str], ...]:
    """(mount point, type) of every mount, the deepest mount points first; of one mounted twice, the last mount."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ()
    found = {}
    for line in lines:
        before, _, after = line.partition(" - ")  # man 5 proc: optional fields end with a hyphen
        if len(before.split()) > 4 and after:
            found[_unescaped(before.split()[4])] = after.split()[0]
    return tuple(sorted(found.items(), key=lambda one: len(one[0]), reverse=True))


def _unescaped(point: str) -> str:
    """A mount point, in which the kernel writes white space and backslashes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), point)


def _is_below(folder: str, point: str) -> bool:
    return point == "/" or folder == point or folder.startswith(point + "/")
