"""Compressed files: the same content as without, and damage is never passed over."""

import bz2
import gzip
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from data_prep.sources.content import BLOCK_BYTES, decompressed, opened_content
from data_prep.sources.files import Compression, find_files
from pretrain.errors import DataError
from tests.data_prep.sources.reading import read_files

PACK: dict[Compression, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def words(seed: int) -> bytes:
    generator = random.Random(seed)
    return b"".join(b"%x words here.\n\n" % generator.getrandbits(64) for _ in range(4_000))


@pytest.mark.parametrize("name", PACK)
def test_members_follow_each_other(tmp_path: Path, name: Compression) -> None:
    one, two = words(1), words(2)
    plain, packed = tmp_path / "a.txt", tmp_path / f"b.txt.{name}"
    plain.write_bytes(one + two)
    packed.write_bytes(PACK[name](one) + PACK[name](two))
    expected = read_files(plain)[0]
    texts, intake = read_files(packed)
    assert (len(texts), texts) == (8_000, expected)
    assert intake.bytes_read == packed.stat().st_size
    packed.write_bytes(packed.read_bytes() + bytes(1024))  # padding, as tar and tapes leave it
    assert read_files(packed)[0] == expected


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.5, 0.7, 0.99999])
def test_a_file_that_ends_early_is_named(tmp_path: Path, name: Compression, share: float) -> None:
    packed = PACK[name](words(1)) + PACK[name](words(2))
    path = tmp_path / f"a.txt.{name}"
    length = int(len(packed) * share)
    if share == 0.5:
        length = len(PACK[name](words(1))) + 1  # a member's first byte alone
    path.write_bytes(packed[:length])
    with pytest.raises(
        DataError, match=rf"a\.txt\.{name} ends early, at byte \d+ of its decompressed content"
    ):
        read_files(path)


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_damage_is_named(tmp_path: Path, name: Compression, share: float) -> None:
    packed = bytearray(PACK[name](words(1)) + PACK[name](words(2)))
    at = int(len(packed) * share)
    packed[at : at + 8] = bytes(each ^ 0x55 for each in packed[at : at + 8])
    path = tmp_path / f"a.txt.{name}"
    path.write_bytes(packed)
    with pytest.raises(DataError, match=rf"a\.txt\.{name} (is damaged|ends early|is not valid UTF-8)"):
        read_files(path)


@pytest.mark.parametrize("name", PACK)
def test_what_follows_the_last_member_is_not_passed_over(tmp_path: Path, name: Compression) -> None:
    path = tmp_path / f"a.txt.{name}"
    path.write_bytes(PACK[name](words(1)) + b"more, but not compressed: a damaged member")
    with pytest.raises(DataError, match=r"is damaged behind byte \d+|ends early"):
        read_files(path)


def test_a_wide_zstandard_window_and_skippable_frames_are_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(b"one\n\n" * 60_000_000)
    (tmp_path / "a.txt.zst").write_bytes(b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + packed)
    file = find_files((str(tmp_path),), "auto").files[0]
    with file.path.open("rb", buffering=0) as raw:
        sizes = [len(block) for block in decompressed(raw, file.path, "zst")]
    assert (sum(sizes), max(sizes) <= BLOCK_BYTES) == (300_000_000, True)


def test_the_byte_order_mark_goes_wherever_blocks_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa")
    file = find_files((str(path),), "auto").files[0]
    with opened_content(file, block_bytes=1) as content:
        content.fill(10)
        assert (content.held, content.offset, content.has_ended) == (b"a", 3, True)
