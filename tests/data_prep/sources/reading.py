"""What a build would read: every segment, every chunk, through the worker's part."""

from typing import Any

from data_prep.documents import Intake
from data_prep.options import InputOptions
from data_prep.sources.corpus import Corpus, open_files
from data_prep.sources.reading import read_chunk


def read_files(*paths: object, **options: Any) -> tuple[list[str], Intake]:
    """The texts of files, and the tally."""
    chosen = InputOptions(paths=tuple(map(str, paths)), **options)
    return read_corpus(open_files(chosen), chosen)


def read_corpus(corpus: Corpus, options: InputOptions) -> tuple[list[str], Intake]:
    intake = Intake()
    texts = [text for segment in read_segments(corpus, options, intake) for text in segment]
    return texts, intake


def read_segments(corpus: Corpus, options: InputOptions, intake: Intake) -> list[list[str]]:
    return [
        [text for chunk in corpus.chunks(segment) for text in read_chunk(chunk, options, intake)]
        for segment in range(corpus.num_segments)
    ]
