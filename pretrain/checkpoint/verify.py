"""Whether a checkpoint is whole: what the manifest promises against what lies there.

1. the manifest checks itself, and its slices must make whole parameters (`CheckpointManifest.read`);
2. every file is a regular one of the size listed, and its header holds exactly the tensors that are promised;
3. every file has its checksum, unless only the accounting is asked for. Ranks share this work.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pretrain import comm
from pretrain.checkpoint.manifest import MANIFEST_NAME, CheckpointManifest, SavedFile, sha256_of
from pretrain.checkpoint.tensors import TensorFile
from pretrain.errors import DataError
from pretrain.files import size_problem


def verify_checkpoint(
    folder: Path,
    manifest: CheckpointManifest,
    *,
    checksums: bool = True,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 1,
) -> list[str]:
    """Sentences naming what is missing, of another size or content; rank r of n looks at every n-th file."""
    with ThreadPoolExecutor(max(1, workers)) as pool:  # hashing releases the interpreter's lock
        found = pool.map(
            lambda file: next(_problems(folder, manifest, file, checksums), None), manifest.files[rank::ranks]
        )
        return [problem for problem in found if problem is not None]


def read_verified(folder: Path, checksums: bool, rank: int, ranks: int) -> CheckpointManifest:
    """The manifest of a checkpoint that is whole; collective. Raises the same DataError on every rank."""
    manifest: CheckpointManifest | None = None
    problem, seen = None, ""
    try:
        manifest = CheckpointManifest.read(folder)
        seen = manifest.content_sha256
    except DataError as error:
        problem = str(error)
    raise_first(problem)
    if len(set(comm.all_gather_objects(seen))) > 1:
        raise DataError(
            f"{folder / MANIFEST_NAME} is not the same on every rank: wait until the file system shows all machines "
            "the same files, and start again."
        )
    assert manifest is not None
    problems = verify_checkpoint(folder, manifest, checksums=checksums, rank=rank, ranks=ranks)
    raise_first(f"{problems[0]} The checkpoint is damaged." if problems else None)
    return manifest


def _problems(folder: Path, manifest: CheckpointManifest, file: SavedFile, checksums: bool) -> Iterator[str]:
    """The first says enough: what follows from a wrong size is no news."""
    path = folder / file.name
    wrong_size = size_problem(str(path), file.bytes)
    if wrong_size is not None:
        yield wrong_size
    try:
        if checksums and sha256_of(path) != file.sha256:
            yield f"{path} differs from its checksum."
        wrong_tensors = TensorFile.open(path).problem(manifest.tensors(file))
        if wrong_tensors is not None:
            yield wrong_tensors
    except OSError as error:
        yield f"{path} cannot be read: {error.strerror or error}."
    except DataError as error:
        yield str(error)


def raise_first(problem: str | None) -> None:
    """Every rank raises the first rank's problem, if one has any."""
    problems = [each for each in comm.all_gather_objects(problem) if each is not None]
    if problems:
        raise DataError(problems[0])
