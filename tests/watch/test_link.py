"""Two machines whose link is cut: both sides end by themselves, and the peer is named."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.watch.starting import WATCH_SECONDS, Host, named_rank, tiny_world, world

pytestmark = pytest.mark.slow


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Two network name spaces with a cable between them."""
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip")
    mark = os.getpid() % 10_000
    names = [f"lbb{mark}a", f"lbb{mark}b"]
    try:
        for name in names:
            ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network name spaces are not allowed here: {error.stderr.strip()}")
    try:
        found = [Host(name, f"{name}0", f"10.213.7.{last}") for last, name in enumerate(names, start=1)]
        one, two = found
        ip(
            "-n",
            one.name,
            "link",
            "add",
            one.interface,
            "type",
            "veth",
            "peer",
            two.interface,
            "netns",
            two.name,
        )
        for host in found:
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.interface)
            ip("-n", host.name, "link", "set", host.interface, "up")
            ip("-n", host.name, "link", "set", "lo", "up")
        yield found
    finally:
        for name in names:
            ip("netns", "delete", name)


def test_a_cut_link_ends_both_sides(hosts: list[Host], tmp_path: Path) -> None:
    with world(tmp_path, tiny_world(tmp_path), 2, hosts=hosts) as running:
        running.wait_for_step(5)
        ip("-n", hosts[1].name, "link", "set", hosts[1].interface, "down")
        codes, took = running.end()
        assert took < WATCH_SECONDS + 5, running.said
        assert codes == [1, 1], running.said
        (sentence,) = running.errors
        speaker = json.loads((running.run / "fault.json").read_text())["rank"]
        assert named_rank(sentence) == 1 - speaker
        assert f"on {hosts[1 - speaker].name}" in sentence
        assert ("cannot be reached" if speaker else "gives no sign of life") in sentence
