"""Every id that would be stored of the demo text, for the four kinds of tokenizers, against the tokenizers library."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from data_prep.clock import CpuClock
from data_prep.encode import EncoderSettings, encode_documents
from data_prep.options import TokenizerKind
from data_prep.progress import Progress
from data_prep.sentences import split_sentences
from data_prep.sources.demo import collect_demo
from data_prep.tokenizer import train_tokenizer
from data_prep.workers import Workers

NUM_BYTES = {True: 1 << 25, False: 1 << 23}  # of text, by whether the whole is asked for
TRAINING_BYTES = 3_000_000
KINDS: tuple[TokenizerKind, ...] = ("wordpiece", "bpe", "unigram", "sentencepiece-bpe")
TEXTS_PER_CALL = 200
SAMPLED = 2  # every so many documents, unless the whole is asked for


@pytest.fixture(scope="module")
def texts(in_full: bool) -> list[str]:
    with Workers(2) as workers:
        corpus = collect_demo(workers, Progress(quiet=True), NUM_BYTES[in_full])
    return [document.text for document in corpus.listed]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_lengths_are_the_library_s(
    texts: list[str], kind: TokenizerKind, tmp_path: Path, in_full: bool
) -> None:
    size = sum(map(len, texts))
    training = sentences_of(texts[:: max(1, size // TRAINING_BYTES)])
    trained = train_tokenizer(kind, training, 8_000, lowercase=kind == "wordpiece")
    library: Tokenizer = trained.tokenizer.backend_tokenizer
    file = tmp_path / "tokenizer.json"
    library.save(str(file))
    library.encode_special_tokens = True
    special = [int(index) for index in trained.tokenizer.all_special_ids]
    unknown = trained.tokenizer.unk_token_id
    settings = EncoderSettings(
        tokenizer_file=file,
        vocab_size=library.get_vocab_size(),
        unk_id=unknown,
        forbidden=tuple(index for index in special if index != unknown),
        token_dtype="<u2",
        sentences="sentencex",
        language="en",
    )
    num_tokens = 0
    chosen = texts[:: 1 if in_full else SAMPLED]
    for start in range(0, len(chosen), TEXTS_PER_CALL):
        some = chosen[start : start + TEXTS_PER_CALL]
        documents = encode_documents(settings, some, CpuClock()).hashed.documents
        expected = list(plainly(library, some, settings))
        assert documents.sentence_lengths.tolist() == [len(ids) for ids in expected]
        assert np.array_equal(documents.tokens, np.fromiter(chain.from_iterable(expected), np.uint16))
        num_tokens += len(documents.tokens)
    assert num_tokens > size * (0.2 if in_full else 0.2 / SAMPLED)


def sentences_of(texts: Sequence[str]) -> list[str]:
    return [sentence for text in texts for sentence in split_sentences(text, "sentencex", "en")[0]]


def plainly(library: Tokenizer, texts: Sequence[str], settings: EncoderSettings) -> Iterator[list[int]]:
    """The ids of each sentence that has any."""
    for encoding in library.encode_batch_fast(sentences_of(texts), add_special_tokens=False):
        if encoding.ids:
            yield [settings.unk_id if index in settings.forbidden else index for index in encoding.ids]
