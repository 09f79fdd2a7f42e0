"""Names, addresses and interfaces of this machine."""

import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence

import psutil

from pretrain.doctor.finding import Finding, failed, ok, warning
from pretrain.doctor.here import Here

_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def addresses_of(name: str) -> list[str]:
    """What a name resolves to; nothing where it does not."""
    try:
        found = socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)
    except OSError:
        return []
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def check_own_name(here: Here, nodes: int, addresses: Sequence[str] | None = None) -> Iterator[Finding]:
    """gloo listens where this machine's own name leads: there the others must find it."""
    name = socket.gethostname()
    found = addresses_of(name) if addresses is None else addresses
    if nodes == 1:
        yield ok(
            f"{name} is {', '.join(found) or 'an unknown name'}; one machine, where that does not matter"
        )
    elif here.variables.get("GLOO_SOCKET_IFNAME"):
        yield ok(
            f"{name} is {', '.join(found) or 'an unknown name'}; GLOO_SOCKET_IFNAME says where gloo listens"
        )
    elif not found or all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found):
        actual = f"resolves to {', '.join(found)}" if found else "does not resolve"
        yield warning(
            f"the own name of this machine, {name}, {actual}, where other machines cannot reach it; "
            "expected an address in their network",
            "correct /etc/hosts, or set GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME) to the interface between the machines",
        )
    else:
        yield ok(f"{name} is {', '.join(found)}")


def interfaces_here() -> list[str]:
    """Names of this machine's network interfaces."""
    return list(psutil.net_if_addrs())


def check_interfaces(variables: Mapping[str, str], interfaces: Sequence[str]) -> Iterator[Finding]:
    """The interfaces that variables name must be there."""
    said = {name: variables[name] for name in _VARIABLES if variables.get(name)}
    for name, text in said.items():
        missing = _missing(name, text, interfaces)
        if missing:
            yield failed(
                f"{name} is {text!r}, and this machine has no interface {missing}; there are {', '.join(interfaces)}",
                f"set {name} to one of them, on each machine to its own, or unset it",
            )
        else:
            yield ok(f"{name} is {text!r}, which is there")
    if not said:
        yield ok(f"{', '.join(interfaces)}; none is prescribed ({' or '.join(_VARIABLES)})")


def _missing(name: str, text: str, interfaces: Sequence[str]) -> str:
    """The first that is not there. NCCL's documentation: a list of beginnings; "=" before it: of whole names; "^": of
    what is left out."""
    if name.startswith("NCCL"):
        if text.startswith("^"):
            return ""
        names = text.removeprefix("=").split(",")
        exact = text.startswith("=")
        is_there = any(each == one if exact else each.startswith(one) for each in interfaces for one in names)
        return "" if is_there else " or ".join(names)
    return next((each for each in text.split(",") if each not in interfaces), "")
