"""Each kind's tokenizer is learned once, and its encoder keeps the words of all tests before."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from data_prep.encode.cache import DEFAULT_MAX_WORDS
from data_prep.encode.encoder import Encoder
from tests.data_prep.encode.kinds import ALL


@dataclass(frozen=True)
class Subject:
    """A tokenizer as the library has it, and the encoder that must equal it."""

    file: Path
    library: Tokenizer
    encoder: Encoder

    def new_encoder(self, max_words: int = DEFAULT_MAX_WORDS) -> Encoder:
        return Encoder(self.file, self.library.get_vocab_size(), max_words)


Subjects = Callable[[str], Subject]


@pytest.fixture(scope="session")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subjects]:
    folder = tmp_path_factory.mktemp("tokenizers")
    made: dict[str, Subject] = {}

    def subject(name: str) -> Subject:
        if name not in made:
            file = folder / f"{name}.json"
            ALL[name]().save(str(file))
            library = Tokenizer.from_file(str(file))
            library.encode_special_tokens = True
            made[name] = Subject(file, library, Encoder(file, library.get_vocab_size()))
        return made[name]

    yield subject
