"""Sentences to ids: word by word from the cache where a rule allows it, else by the tokenizers library.

1. a rule is read from the tokenizer.json (`rules`);
2. the words of all sentences are looked up (`cache`), new ones resolved by the library (`resolving`);
3. sentences with anything that may not be looked up go through the library as they are (`library`).

Ids are always the library's own, and the same on both ways.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers

from data_prep.clock import CpuClock
from data_prep.encode.cache import DEFAULT_MAX_WORDS, WordCache
from data_prep.encode.gathering import BEGINS_WORD, interleave
from data_prep.encode.kernels import PADDING
from data_prep.encode.library import encode_sentences, encode_sentences_and_words, load_library
from data_prep.encode.resolving import Resolver
from data_prep.encode.rules import Rule, rule_for
from data_prep.encode.words import word_start_table


@dataclass(frozen=True)
class EncodedSentences:
    """tokens uint32 [tokens], each its id and `BEGINS_WORD` where it begins a word; lengths int64 [sentences]."""

    tokens: np.ndarray
    lengths: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        """uint32 [tokens]."""
        return self.tokens & ~BEGINS_WORD

    @property
    def word_starts(self) -> np.ndarray:
        """bool [tokens]."""
        return self.tokens >= BEGINS_WORD


class Encoder:
    """A tokenizer file, and the words met so far."""

    def __init__(self, path: Path, vocab_size: int, max_words: int = DEFAULT_MAX_WORDS) -> None:
        self._tokenizer = load_library(path)
        content = json.loads(self._tokenizer.to_str())
        self.rule = rule_for(content)
        starts = word_start_table(content, self._tokenizer.get_vocab(), vocab_size)
        self._tokens = None if starts is None else _tokens(np.arange(vocab_size), starts)
        self.cache = _word_cache(self.rule, load_library(path), self._tokens, max_words)

    def encode(self, text: bytes, num_sentences: int, clock: CpuClock) -> EncodedSentences:
        """Of each of so many `nul_ended` pieces, with `PADDING` zero bytes behind the last, one sentence, in which
        white space is as `sentences.split_sentences` has it; a blank piece gives a sentence without tokens. `clock`
        counts what is looked up, new words, and what goes through the library.
        """
        if not num_sentences:
            return EncodedSentences(np.zeros(0, np.uint32), np.zeros(0, np.int64))
        if self.cache is not None:
            tokens, lengths = self._looked_up(self.cache, text, num_sentences, clock)
        else:
            with clock.timed("library"):
                tokens, lengths = self._whole(list(_one_spaced(text, range(num_sentences))))
        return EncodedSentences(tokens, lengths)

    def _whole(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and lengths, by the library alone."""
        if self._tokens is not None:
            ids, lengths = encode_sentences(self._tokenizer, sentences)
            tokens = self._tokens[ids]
        else:
            ids, lengths, words = encode_sentences_and_words(self._tokenizer, sentences)
            starts = np.ones(len(ids), dtype=np.bool_)
            starts[1:] = (words[1:] != words[:-1]) | (words[1:] < 0)
            tokens = _tokens(ids, starts)
        tokens[(np.cumsum(lengths) - lengths)[lengths > 0]] |= BEGINS_WORD
        return tokens, lengths

    def _looked_up(
        self, cache: WordCache, text: bytes, num_sentences: int, clock: CpuClock
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and lengths."""
        padded = np.frombuffer(text, dtype=np.uint8)
        skip = _sentences_with(self.rule.markers, text, num_sentences)
        token_parts, length_parts = [], []
        position = num_done = 0
        while position < len(text) - PADDING:
            tokens, lengths, position = cache.encode(padded, position, skip[num_done:], clock)
            token_parts.append(tokens)
            length_parts.append(lengths)
            num_done += len(lengths)
        if num_done > len(lengths):
            tokens, lengths = np.concatenate(token_parts), np.concatenate(length_parts)
        whole = np.flatnonzero(lengths < 0)
        if not len(whole):
            return tokens, lengths
        with clock.timed("library"):
            other_tokens, other_lengths = self._whole(list(_one_spaced(text, whole.tolist())))
        is_whole = lengths < 0
        lengths[whole] = other_lengths
        both = np.empty(len(tokens) + len(other_tokens), dtype=np.uint32)
        interleave(lengths, is_whole, other_tokens, tokens, both)
        return both, lengths


def _tokens(ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return ids.astype(np.uint32) | np.where(starts, BEGINS_WORD, np.uint32(0))


def _word_cache(
    rule: Rule, tokenizer: Tokenizer, tokens: np.ndarray | None, max_words: int
) -> WordCache | None:
    """`tokenizer` becomes the cache's own."""
    if rule.cut is None or tokens is None:
        return None
    if rule.cut.keeps_space:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return WordCache(rule.cut, Resolver(tokenizer, rule), tokens, max_words)


def nul_ended(pieces: list[str]) -> bytes:
    """UTF-8 of all pieces, none of which may hold NUL, each with NUL behind it."""
    return ("\0".join(pieces) + "\0").encode() if pieces else b""


def _sentences_with(markers: tuple[bytes, ...], text: bytes, num_sentences: int) -> np.ndarray:
    """bool [sentences]: whether one of the markers stands in the sentence."""
    found = []
    for marker in markers:
        at = text.find(marker)
        while at >= 0:
            found.append(at)
            at = text.find(marker, at + 1)
    is_found = np.zeros(num_sentences, dtype=np.bool_)
    if found:
        ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == 0)
        is_found[np.searchsorted(ends, found)] = True
    return is_found


def _one_spaced(text: bytes, chosen: Iterable[int]) -> Iterator[str]:
    """The chosen ones of the sentences of the text, with single spaces."""
    sentences = text.split(b"\0")
    for index in chosen:
        yield b" ".join(sentences[index].split()).decode()
