"""The token stores of a run, opened together: one, or several with their shares of the rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Literal, Self

from pretrain.data.store import OnProgress, StoreSplit, TokenStore, verify_store
from pretrain.errors import DataError, UsageError


@dataclass(frozen=True)
class Corpus:
    """Stores with the same tokenizer. `names` are the paths as the user gave them; `weights` positive whole
    numbers without a common factor, in proportion to which the rows come from the stores.
    """

    names: tuple[str, ...]
    stores: tuple[TokenStore, ...]
    weights: tuple[int, ...]

    @classmethod
    def open(cls, names: Sequence[str], shares: Sequence[float], kind: Literal["weight", "epochs"]) -> Self:
        """`shares` are weights; or epochs, and a store's weight is then epochs * tokens of its training split.

        Raises UsageError where a store is named twice or two were not made by the same tokenizer, and what
        `TokenStore.open` raises.
        """
        stores = tuple(map(TokenStore.open, names))
        for number, store in enumerate(stores):
            earlier = [each.fingerprint for each in stores[:number]]
            if store.fingerprint in earlier:
                raise UsageError(
                    f"data.blend names the same store twice, as {names[earlier.index(store.fingerprint)]} and as "
                    f"{names[number]}: name it once and give it a larger share."
                )
            _check_agreement(names[0], stores[0], names[number], store)
        weights = [Fraction(repr(share)) for share in shares]  # as written: 0.1 is a tenth
        if kind == "epochs":
            weights = [w * store.split("train").num_tokens for w, store in zip(weights, stores, strict=True)]
            for name, weight in zip(names, weights, strict=True):
                if not weight:
                    raise UsageError(f"{name} has no training text: leave it out of data.blend.")
        return cls(tuple(names), stores, _whole(weights))

    def verify(self, workers: int, on_progress: OnProgress) -> None:
        """Every checksum, length and id of every store. Raises DataError naming the first file that is damaged."""
        for store in self.stores:
            problems = verify_store(store.path, full=True, workers=workers, on_progress=on_progress)
            if problems:
                more = f" There are {len(problems) - 1} problems more." if problems[1:] else ""
                raise DataError(f"{problems[0]} The store is damaged: copy or build it again.{more}")

    @property
    def is_blend(self) -> bool:
        return len(self.stores) > 1

    @property
    def first(self) -> TokenStore:
        """Stands for all of them in what they agree on: tokenizer, vocabulary and special ids."""
        return self.stores[0]

    @property
    def fingerprint(self) -> str:
        """That of the only store, or the sha256 over all fingerprints and weights."""
        if not self.is_blend:
            return self.first.fingerprint
        lines = (
            f"{store.fingerprint} {weight}\n" for store, weight in zip(self.stores, self.weights, strict=True)
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def splits(self, name: str) -> list[StoreSplit]:
        """The split of this name of every store."""
        return [store.split(name) for store in self.stores]


def _whole(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """The same proportions in the smallest whole numbers."""
    multiple = lcm(*(weight.denominator for weight in weights))
    numbers = [int(weight * multiple) for weight in weights]
    return tuple(number // gcd(*numbers) for number in numbers)


def _check_agreement(name: str, store: TokenStore, other_name: str, other: TokenStore) -> None:
    """Raises UsageError naming the first thing in which two tokenizers differ."""
    for what, one, two in (
        ("vocabulary sizes", store.vocab_size, other.vocab_size),
        ("special ids", store.special_ids, other.special_ids),
        ("special ids", sorted(store.all_special_ids), sorted(other.all_special_ids)),
        ("tokenizers", store.manifest.tokenizer_sha256, other.manifest.tokenizer_sha256),
    ):
        if one != two:
            raise UsageError(
                f"data.blend: {name} and {other_name} have different {what} ({_short(one)} and {_short(two)}): build "
                "both with the same --tokenizer."
            )


def _short(value: object) -> str:
    """A checksum by its first digits; of special ids, all."""
    return f"tokenizer.json {value[:12]}..." if isinstance(value, str) else str(value)
