"""The interface that gloo is given where a host's own name is loopback."""

import os
import socket
from collections.abc import Mapping

import pytest

from kelip_lightning.distributed import interfaces
from kelip_lightning.distributed.interfaces import (
    choose_gloo_interface,
    first_address_of,
    interfaces_by_address,
    local_address_towards,
)
from kelip_lightning.errors import RunFolderError

TWO = {"10.0.0.5": "eth0", "192.168.1.5": "ib0"}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A host whose name is 127.0.1.1 and whose route to its peer goes through eth0."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(interfaces, "first_address_of", lambda _: "127.0.1.1")
    monkeypatch.setattr(interfaces, "interfaces_by_address", lambda: TWO)
    monkeypatch.setattr(interfaces, "local_address_towards", lambda _: "10.0.0.5")
    return monkeypatch


def chosen() -> str | None:
    choose_gloo_interface("first")
    return os.environ.get("GLOO_SOCKET_IFNAME")


def test_choose__the_interface_on_the_route_to_rank_zero(host: pytest.MonkeyPatch) -> None:
    assert chosen() == "eth0"
    host.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert chosen() == "ib0", "what the user says"


@pytest.mark.parametrize(("known", "expected"), [({"10.0.0.5": "eth0"}, "eth0"), ({"fe80::1": "eth1"}, "eth1")])
def test_choose__the_only_interface_where_rank_zero_is_this_host(
    host: pytest.MonkeyPatch, known: Mapping[str, str], expected: str
) -> None:
    host.setattr(interfaces, "local_address_towards", lambda _: "127.0.0.1")
    host.setattr(interfaces, "interfaces_by_address", lambda: known)
    assert chosen() == expected


@pytest.mark.parametrize(("known", "listed"), [(TWO, r"\(eth0, ib0\)"), ({}, r"\(none but loopback\)")])
def test_choose__refused_where_nothing_tells(host: pytest.MonkeyPatch, known: Mapping[str, str], listed: str) -> None:
    host.setattr(interfaces, "local_address_towards", lambda _: "127.0.0.1")
    host.setattr(interfaces, "interfaces_by_address", lambda: known)
    with pytest.raises(RunFolderError, match=f"resolves to a loopback address.*set GLOO_SOCKET_IFNAME.*{listed}"):
        choose_gloo_interface("first")
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_choose__nothing_where_the_name_leads_elsewhere(host: pytest.MonkeyPatch) -> None:
    host.setattr(interfaces, "first_address_of", lambda _: "10.0.0.5")
    assert chosen() is None


def test_addresses__of_this_machine() -> None:
    assert first_address_of("localhost") in ("127.0.0.1", "::1")
    assert first_address_of("no.such.host.invalid") == ""
    assert local_address_towards("127.0.0.1") == "127.0.0.1"
    assert local_address_towards("no.such.host.invalid") == ""
    assert set(interfaces_by_address().values()) <= {name for _, name in socket.if_nameindex()} - {"lo"}
