"""Names and interfaces."""

import socket
from pathlib import Path

import pytest

from pretrain.doctor.network import addresses_of, check_interfaces, check_own_name, interfaces_here
from tests.doctor.heres import make_here, only

LOOPBACK = next(name for index, name in socket.if_nameindex() if name.startswith("lo"))


@pytest.mark.parametrize(
    ("addresses", "part"),
    [
        (["127.0.1.1"], "resolves to 127.0.1.1"),
        (["::1", "127.0.0.1"], "resolves to ::1"),
        ([], "does not resolve"),
    ],
)
def test_an_own_name_that_others_cannot_reach(tmp_path: Path, addresses: list[str], part: str) -> None:
    here = make_here(tmp_path)
    only(check_own_name(here, 2, addresses), "warning", part, "/etc/hosts", "GLOO_SOCKET_IFNAME")
    only(check_own_name(here, 1, addresses), "ok")
    only(check_own_name(make_here(tmp_path, variables={"GLOO_SOCKET_IFNAME": "eth0"}), 2, addresses), "ok")


def test_an_own_name_with_an_address(tmp_path: Path) -> None:
    only(check_own_name(make_here(tmp_path), 2, ["127.0.0.1", "10.0.0.3"]), "ok", "10.0.0.3")


def test_names_are_looked_up_by_the_system() -> None:
    assert addresses_of("127.0.0.2") == ["127.0.0.2"]
    assert addresses_of("no-such-host.invalid") == []


@pytest.mark.parametrize(
    ("name", "text", "verdict"),
    [
        ("GLOO_SOCKET_IFNAME", "nosuch7", "failed"),
        ("GLOO_SOCKET_IFNAME", f"{LOOPBACK},nosuch7", "failed"),
        ("GLOO_SOCKET_IFNAME", LOOPBACK, "ok"),
        ("NCCL_SOCKET_IFNAME", "nosuch7,nosuch8", "failed"),
        ("NCCL_SOCKET_IFNAME", f"={LOOPBACK[:1]}", "failed"),
        ("NCCL_SOCKET_IFNAME", LOOPBACK[:1], "ok"),
        ("NCCL_SOCKET_IFNAME", f"={LOOPBACK}", "ok"),
        ("NCCL_SOCKET_IFNAME", "^nosuch7", "ok"),
        ("PATH", "nosuch7", "ok"),
    ],
)
def test_interfaces_that_variables_name(name: str, text: str, verdict: str) -> None:
    parts = (
        [name, "has no interface nosuch7" if "nosuch7" in text else "", LOOPBACK]
        if verdict == "failed"
        else []
    )
    only(check_interfaces({name: text}, interfaces_here()), verdict, *parts)
