"""An existing tokenizer: a Hugging Face folder, or one of three files alone.

A folder goes through `transformers.AutoTokenizer`, without code from the folder and without the network. A
file carries less than a folder, so that the rest follows from it: of tokenizer.json the special tokens are
known by their usual names, of a vocab.txt whether it is lowercased by its letters, and a sentencepiece model
gets the tokens it lacks. What the last two had to assume is in the notes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers
from tokenizers import Tokenizer

from data_prep.tokenizer import wordpiece
from data_prep.tokenizer.roles import MODEL_INPUT_NAMES, MODEL_MAX_LENGTH, StoreTokenizer, describe
from data_prep.tokenizer.sentencepiece_model import convert_model, parse_model
from pretrain.errors import PretrainError, UsageError

_CONFIG = "tokenizer_config.json"
_WHAT_TO_GIVE = (
    "give a folder saved by `save_pretrained`, or a file: tokenizer.json, a vocab.txt of BERT or a .model of "
    "sentencepiece"
)
_USUAL_NAMES = {
    "mask": ("[MASK]", "<mask>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
}
_MAX_REASON = 300


def load_tokenizer(path: Path) -> StoreTokenizer:
    """The tokenizer of a folder or file; raises UsageError if it cannot be used for masked-token training.

    Truncation, padding and BPE dropout that it may carry are switched off: they would change what is stored.
    """
    source = f"--tokenizer {path}"
    if path.is_dir():
        return _load_folder(path, source)
    if not path.is_file():
        raise UsageError(f"{source} is not a folder, nor a file that is there; {_WHAT_TO_GIVE}.")
    if path.name in ("tokenizer.json", "vocab.txt") and (path.parent / _CONFIG).is_file():
        return _load_folder(path.parent, source)
    return _load_file(path, source)


def _load_folder(folder: Path, source: str) -> StoreTokenizer:
    names = {entry.name for entry in folder.iterdir() if entry.is_file()}
    if not names & {_CONFIG, "config.json"}:
        models = sorted(name for name in names if name.endswith(".model"))
        alone = [name for name in ("tokenizer.json", "vocab.txt", *models) if name in names]
        if not alone:
            raise UsageError(f"{source} holds no tokenizer; {_WHAT_TO_GIVE}.")
        return _load_file(folder / alone[0], f"--tokenizer {folder / alone[0]}")
    with _refusing(f"{source} holds no tokenizer that transformers can load"):
        # An absolute path: a relative one may be taken for the name of a model on the Hub.
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder.absolute()), local_files_only=True, trust_remote_code=False
        )
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
        raise UsageError(f"{source} has no tokenizer.json, and transformers cannot convert it to one.")
    return _described(tokenizer, source, _rebuilt(tokenizer, folder, source))


def _load_file(path: Path, source: str) -> StoreTokenizer:
    if path.suffix == ".model":
        content = path.read_bytes()
        with _refusing(f"{source} is not a sentencepiece model, or it is damaged"):
            return convert_model(parse_model(content, source), source)
    if path.suffix == ".json":
        return _described(_from_json(path, source), source)
    if path.suffix == ".txt":
        return _from_vocab_txt(path, source)
    raise UsageError(f"{source} is no tokenizer file that is known; {_WHAT_TO_GIVE}.")


def _from_json(path: Path, source: str) -> transformers.PreTrainedTokenizerFast:
    with _refusing(f"{source} is not a tokenizer.json, or it is damaged"):
        backend = Tokenizer.from_file(str(path))
    known = {
        f"{role}_token": name
        for role, names in _USUAL_NAMES.items()
        for name in reversed(names)
        if backend.token_to_id(name) is not None
    }
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=MODEL_MAX_LENGTH,
        model_input_names=list(MODEL_INPUT_NAMES),
        **known,
    )


def _from_vocab_txt(path: Path, source: str) -> StoreTokenizer:
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise UsageError(f"{source} is not UTF-8 text, as a vocab.txt of BERT is.") from None
    vocabulary = {line: number for number, line in enumerate(lines)}
    missing = [token for token in wordpiece.SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise UsageError(f"{source} has no line {' and no line '.join(missing)}, as a vocab.txt of BERT has.")
    is_lowercase = not _has_capitals(vocabulary)
    found, what = ("no", "is lowercased") if is_lowercase else ("an", "keeps its case")
    tokenizer = wordpiece.from_vocabulary(vocabulary, lowercase=is_lowercase)
    return describe(
        tokenizer, source, notes=(f"{source}: {found} entry has a capital letter, so that text {what}.",)
    )


def _has_capitals(vocabulary: Iterable[str]) -> bool:
    return any(token != token.lower() for token in vocabulary if not token.startswith("["))


def _described(
    tokenizer: transformers.PreTrainedTokenizerFast, source: str, notes: tuple[str, ...] = ()
) -> StoreTokenizer:
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None
    described = describe(tokenizer, source, notes)
    if described.vocab_size <= len(described.all_special_ids):
        # transformers makes one of special tokens alone where the files of a vocabulary are missing.
        raise UsageError(f"{source} has no vocabulary, only special tokens; {_WHAT_TO_GIVE}.")
    return described


def _rebuilt(tokenizer: transformers.PreTrainedTokenizerFast, folder: Path, source: str) -> tuple[str, ...]:
    """A note where transformers rebuilds by its class what tokenizer.json says otherwise."""
    if not (folder / "tokenizer.json").is_file():
        return ()
    written, used = Tokenizer.from_file(str(folder / "tokenizer.json")), tokenizer.backend_tokenizer
    return tuple(
        f"{source}: {type(tokenizer).__name__} of transformers does not use the {part} of tokenizer.json but its "
        "own; so does whoever loads the model."
        for part in ("normalizer", "pre_tokenizer")
        if repr(getattr(written, part)) != repr(getattr(used, part))
    )


@contextmanager
def _refusing(problem: str) -> Iterator[None]:
    """Whatever a library's parser raises, as one line for the user."""
    try:
        yield
    except (PretrainError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the tokenizers library is no `Exception`
        reason = " ".join(str(error).split()) or type(error).__name__
        shortened = reason if len(reason) <= _MAX_REASON else reason[:_MAX_REASON] + "..."
        raise UsageError(f"{problem}: {shortened.rstrip('.')}.") from None
