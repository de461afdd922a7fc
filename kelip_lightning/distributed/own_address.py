"""Whether the other hosts reach this one at the address to which its own name resolves, which gloo gives them."""

import ipaddress
import os
import socket

_INTERFACE = "GLOO_SOCKET_IFNAME"


def loopback_problem() -> str:
    """Why other hosts do not reach this one over gloo: its name is a loopback address, as in Debian's /etc/hosts.

    gloo would wait for the others until its timeout. Empty: there is no such problem, or an interface is given.
    """
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:  # gloo tells it at once
        return ""
    if os.environ.get(_INTERFACE) or not ipaddress.ip_address(address).is_loopback:
        return ""
    names = ", ".join(name for _, name in socket.if_nameindex() if name != "lo")
    return (
        f"{host} is not reached by other hosts, as its own name resolves to {address} there (/etc/hosts); on every "
        f"host, export {_INTERFACE}=NAME with the network interface to the others (on {host}: {names or 'none'}), or "
        "map the name to the host's address"
    )
