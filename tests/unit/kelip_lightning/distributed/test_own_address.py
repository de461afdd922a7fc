"""Hosts whose own names are loopback addresses."""

import socket

import pytest

from kelip_lightning.distributed.own_address import loopback_problem


@pytest.fixture(autouse=True)
def _debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    monkeypatch.setattr(socket, "gethostbyname", {"node7": "127.0.1.1"}.__getitem__)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0"), (3, "ib0")])


def test_loopback__names_host_address_and_interfaces() -> None:
    said = loopback_problem()
    assert all(word in said for word in ("node7", "127.0.1.1", "GLOO_SOCKET_IFNAME", "eth0, ib0")), said


def test_given_interface_or_real_address__is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "ib0")
        assert not loopback_problem()
    monkeypatch.setattr(socket, "gethostbyname", {"node7": "10.0.0.7"}.__getitem__)
    assert not loopback_problem()
