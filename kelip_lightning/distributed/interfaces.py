"""The network interface that gloo uses between hosts.

Gloo listens on the address that the host's own name resolves to. Debian's installer writes `127.0.1.1 NAME` into
/etc/hosts, and no other host can connect to that. NCCL looks at the interfaces instead.
"""

import ipaddress
import logging
import os
import socket
from collections.abc import Mapping

from kelip_lightning.errors import RunFolderError

_VARIABLE = "GLOO_SOCKET_IFNAME"
_log = logging.getLogger(__name__)


def choose_gloo_interface(peer: str) -> None:
    """Set `GLOO_SOCKET_IFNAME` for a run over several hosts, if this host's own name leads to no other host.

    Args:
        peer: Name or address of rank zero's host.

    Raises:
        RunFolderError: There are several interfaces, and nothing tells which one leads to the others.
    """
    address = first_address_of(socket.gethostname())
    if os.environ.get(_VARIABLE) or (address and not ipaddress.ip_address(address).is_loopback):
        return
    interfaces = interfaces_by_address()
    chosen = {interfaces.get(local_address_towards(peer), "")} - {""} or set(interfaces.values())
    if len(chosen) != 1:
        known = ", ".join(sorted(chosen)) or "none but loopback"
        raise RunFolderError(
            f"the name of this host, {socket.gethostname()}, resolves to a loopback address, which no other host can "
            f"reach; set {_VARIABLE} to the interface that leads to the other hosts ({known}), or correct /etc/hosts"
        )
    (name,) = chosen
    os.environ[_VARIABLE] = name
    _log.info("%s = %s, since the name of this host resolves to a loopback address", _VARIABLE, name)


def first_address_of(name: str) -> str:
    """What a host's name resolves to first, which is what gloo takes; empty if it does not, as loopback then."""
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]).partition("%")[0]
    except OSError:
        return ""


def local_address_towards(peer: str) -> str:
    """This host's address on the route to another one; nothing is sent. Empty without a route."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def interfaces_by_address() -> Mapping[str, str]:
    """Address -> name of the interfaces that are up, without loopback."""
    import psutil

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return {
        one.address.partition("%")[0]: name
        for name, addresses in psutil.net_if_addrs().items()
        for one in addresses
        if name in up and one.family == socket.AF_INET and not ipaddress.ip_address(one.address).is_loopback
    }
