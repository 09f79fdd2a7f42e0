"""The token stores of the run: whole, with a tokenizer that works, and a model that fits."""

import os
from collections.abc import Iterator

import sentencepiece
from tokenizers import Tokenizer

from pretrain.build import build_encoder
from pretrain.data.store import SPLITS, TokenStore, verify_store
from pretrain.doctor.finding import Finding, failed, ok, warning
from pretrain.doctor.here import Here
from pretrain.errors import DataError, PretrainError
from pretrain.plan.tables import gib

_SENTENCE = "The doctor has read 12 books, and not one more."
_BUILD_AGAIN = "copy the store again from where it was whole, or build it again (python -m data_prep build)"


def check_store(here: Here) -> Iterator[Finding]:
    """Each store opens, its files have their sizes, and its tokenizer its checksum."""
    if not here.has_store:
        yield ok(f"no store is named: the run builds the demo store first, {here.asked.store}")
        return
    for number, store in enumerate(_opened(here)):
        if isinstance(store, Finding):
            yield store
            return
        problems = verify_store(store.path, full=False, workers=len(os.sched_getaffinity(0)))
        if problems:
            yield _damaged(problems)
            continue
        tokens = " and ".join(f"{store.split(name).num_tokens:,} in {name}" for name in SPLITS)
        size = sum(each.bytes for each in store.manifest.files.values())
        yield ok(
            f"{here.corpus.names[number]}: {tokens} tokens, {gib(size)}, vocabulary of {store.vocab_size:,}, "
            f"fingerprint {store.fingerprint[:12]}"
        )


def _opened(here: Here) -> tuple[TokenStore | Finding, ...]:
    try:
        return here.corpus.stores
    except DataError as error:
        return (failed(str(error), is_damage=True),)
    except PretrainError as error:
        return (
            failed(str(error), "see --data, data.store or data.blend; `python -m data_prep build` makes one"),
        )


def _damaged(problems: list[str]) -> Finding:
    more = f" There are {len(problems) - 1} problems more." if problems[1:] else ""
    return failed(f"{problems[0]}{more}", _BUILD_AGAIN, is_damage=True)


def check_checksums(here: Here) -> Iterator[Finding]:
    """Every checksum, length and id, where `--verify` asks for it."""
    if not here.has_store:
        return
    if not here.verify:
        yield ok("only sizes and the tokenizer were looked at; --verify reads every byte")
        return
    for store in here.corpus.stores:
        problems = verify_store(store.path, full=True, workers=len(os.sched_getaffinity(0)))
        yield _damaged(problems) if problems else ok(f"{store.path}: every checksum, length and id is right")


def check_tokenizer(here: Here) -> Iterator[Finding]:
    """It loads, encodes a sentence into the store's vocabulary, and decodes it again."""
    if not here.has_store:
        return
    store, path = here.corpus.first, here.corpus.first.tokenizer_path / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        ids = tokenizer.encode(_SENTENCE, add_special_tokens=False).ids
        text = tokenizer.decode(ids)
    except Exception as error:  # the library raises its own kind for each
        yield failed(
            f"{path} is nothing that the tokenizers library reads: {error}", _BUILD_AGAIN, is_damage=True
        )
        return
    strange = [each for each in ids if each >= store.vocab_size]
    if strange or not ids:
        found = f"the id {strange[0]}" if strange else "no id at all"
        yield failed(
            f"{path} makes {found} of {_SENTENCE!r}, and the store's vocabulary has {store.vocab_size} entries",
            _BUILD_AGAIN,
            is_damage=True,
        )
        return
    unknown = store.special_ids["unk"]
    if ids.count(unknown) * 2 > len(ids):
        yield warning(
            f"{path} knows {len(ids) - ids.count(unknown)} of {len(ids)} pieces of {_SENTENCE!r}",
            "that is well for a store of another script; else see whether it is the tokenizer that you meant",
        )
        return
    yield ok(f"{len(ids)} ids for {_SENTENCE!r}, and back: {text!r}")
    for model in sorted(path.parent.glob("*.model")):
        yield _sentencepiece(model)


def _sentencepiece(model: os.PathLike[str]) -> Finding:
    try:
        size = sentencepiece.SentencePieceProcessor(model_file=os.fspath(model)).get_piece_size()
    except (OSError, RuntimeError) as error:
        return failed(
            f"{model} is nothing that sentencepiece {sentencepiece.__version__} reads: {error}", _BUILD_AGAIN
        )
    return ok(f"{model}: {size} pieces, by sentencepiece {sentencepiece.__version__}")


def check_model(here: Here) -> Iterator[Finding]:
    """It can be made for the store's vocabulary: shapes alone, on torch's meta device."""
    if not here.has_store:
        return
    store = here.corpus.first
    try:
        model = build_encoder(here.asked.config.recipe, store, on_meta=True)
    except DataError as error:
        yield failed(str(error), is_damage=True)
        return
    except PretrainError as error:
        yield failed(str(error))
        return
    numel = sum(each.numel() for each in model.encoder.parameters())
    yield ok(f"{type(model.encoder).__name__} of {numel:,} parameters, for {store.vocab_size:,} entries")
