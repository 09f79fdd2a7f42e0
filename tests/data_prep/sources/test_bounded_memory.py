"""Files far larger than what may be held at a time, read to the end within a bound."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

READ_ALL = """
import re, sys
from pathlib import Path
from data_prep.documents import Intake
from data_prep.options import InputOptions
from data_prep.sources.corpus import open_files
from data_prep.sources.reading import read_chunk

def peak_kib():
    # The peak that `resource` knows began with the process that started this one.
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

options = InputOptions(paths=(sys.argv[1],), text_column=None if ".txt" in sys.argv[1] else "text", on_bad_text="skip")
before = peak_kib()
corpus, intake = open_files(options), Intake()
size = 0
for segment in range(corpus.num_segments):
    for chunk in corpus.chunks(segment):
        size += sum(map(len, read_chunk(chunk, options, intake)))
print(size, (peak_kib() - before) // 1024)
"""
MEGABYTE = b"Some words, one after the other, go on and on. " * 22_000
NUM_MEGABYTES = 300
LINE = b'{"text": "' + MEGABYTE[:100_000] + b'"}\n'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part", "limit_mib"),
    [
        ("a single line.txt", MEGABYTE, 32),
        ("nothing but spaces.txt", b" " * 1_000_000, 32),
        ("many lines.jsonl", LINE * 10, 32),
        ("one row group.parquet", b"", 160),
        ("an endless line.jsonl", MEGABYTE, 200),  # as long as a line may be, and what joining it takes
    ],
)
def test_memory_is_bounded(tmp_path: Path, name: str, part: bytes, limit_mib: int) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        # pyarrow ends a page after 1024 rows at the earliest, and a page is held whole.
        words = MEGABYTE.decode()
        texts = pa.array([words[number : number + 10_000] for number in range(NUM_MEGABYTES * 100)])
        pq.write_table(pa.table({"text": texts}), path, compression="none", use_dictionary=False)
    else:
        with path.open("wb") as file:
            for _ in range(NUM_MEGABYTES):
                file.write(part)
    result = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(path)], capture_output=True, text=True, check=True
    )
    size, peak_mib = map(int, result.stdout.split())
    is_read = name not in ("nothing but spaces.txt", "an endless line.jsonl")
    assert (size > 0.98 * NUM_MEGABYTES * 1_000_000) == is_read
    assert peak_mib < limit_mib
    path.unlink()
