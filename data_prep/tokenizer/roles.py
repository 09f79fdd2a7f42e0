"""What a store must know of its tokenizer: the size of the vocabulary and the ids of the special roles."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import transformers
from tokenizers import AddedToken, Tokenizer, processors

from pretrain.data.store import SpecialIds
from pretrain.errors import UsageError

MODEL_MAX_LENGTH = 512
MODEL_INPUT_NAMES = ("input_ids", "token_type_ids", "attention_mask")
# What transformers keeps of the call that loaded a tokenizer.
_HOW_LOADED = frozenset({"is_local", "local_files_only"})


@dataclass(frozen=True)
class StoreTokenizer:
    """A tokenizer and what the store must know about it.

    `vocab_size` is the largest id + 1. `all_special_ids` are the ids that text never gives. `notes` are
    sentences for the user, about what was put right while it was loaded.
    """

    tokenizer: transformers.PreTrainedTokenizerFast
    vocab_size: int
    special_ids: SpecialIds
    all_special_ids: tuple[int, ...]
    trained_on_characters: int = 0  # 0 = not trained here
    notes: tuple[str, ...] = ()

    @property
    def json_bytes(self) -> bytes:
        """The content of tokenizer.json, as `save` writes it."""
        return self.tokenizer.backend_tokenizer.to_str(pretty=True).encode()

    @property
    def sha256(self) -> str:
        """Of tokenizer.json, as a store's manifest has it."""
        return hashlib.sha256(self.json_bytes).hexdigest()

    def save(self, folder: Path) -> None:
        """tokenizer.json and tokenizer_config.json, as `transformers.AutoTokenizer` loads them."""
        with _naming_system_errors(folder / "tokenizer.json"):
            self.tokenizer.save_pretrained(str(folder))
        path = folder / "tokenizer_config.json"
        config = {
            key: value for key, value in json.loads(path.read_text("utf-8")).items() if key not in _HOW_LOADED
        }
        # Before version 5 transformers knew the class by its other name only; both know that one.
        if config["tokenizer_class"] == "TokenizersBackend":
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


@contextmanager
def _naming_system_errors(path: Path) -> Iterator[None]:
    """What the system refused the tokenizers library, which says so in a plain `Exception`, as an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None


def describe(
    tokenizer: transformers.PreTrainedTokenizerFast, source: str | Path, notes: tuple[str, ...] = ()
) -> StoreTokenizer:
    """The roles of its special tokens; raises UsageError naming the missing ones. `source` opens the message.

    A `cls` that is missing is taken by `bos`, a `sep` by `eos`.
    """
    found = {
        "mask": tokenizer.mask_token_id,
        "cls": _first(tokenizer.cls_token_id, tokenizer.bos_token_id),
        "sep": _first(tokenizer.sep_token_id, tokenizer.eos_token_id),
        "pad": tokenizer.pad_token_id,
        "unk": tokenizer.unk_token_id,
    }
    ids = {role: token_id for role, token_id in found.items() if token_id is not None}
    missing = [role for role in found if role not in ids]
    if missing:
        raise UsageError(
            f"{source} has no {' and no '.join(missing)} token; pretraining needs mask, cls (or bos), sep (or "
            "eos), pad and unk. Add them with `add_special_tokens` of transformers and save the folder again."
        )
    if ids["mask"] in [ids[role] for role in ids if role != "mask"]:
        raise UsageError(
            f"{source} has a mask token that is another special token too; give it one of its own."
        )
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return StoreTokenizer(
        tokenizer=tokenizer,
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        special_ids=SpecialIds(**ids),
        all_special_ids=tuple(sorted(special | set(tokenizer.all_special_ids) | set(ids.values()))),
        notes=notes,
    )


def around_sentences(tokenizer: Tokenizer, cls: str, sep: str) -> processors.TemplateProcessing:
    """`cls A sep` and `cls A sep B sep`, the second sentence and its end with token type 1: as samples are made
    for pretraining."""
    return processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )


def special_token(content: str, *, takes_space_before: bool = False) -> AddedToken:
    """A token of its own wherever its name stands, unless names of special tokens are read as text."""
    return AddedToken(content, lstrip=takes_space_before, normalized=False, special=True)


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
