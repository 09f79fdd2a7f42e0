"""A model of the `sentencepiece` package as a pipeline of the `tokenizers` library.

1. normalizer: the model's own table of characters (NFKC and the like), runs of spaces to one, none at the end;
2. pre-tokenizer: each word with the "▁" before it, on its own;
3. model: Unigram or BPE over the model's pieces, with their ids; BPE's merges are recovered from the scores;
4. decoder, and [CLS] ... [SEP] around what is encoded. A role that no piece has gets a new token at the end.

Ids equal sentencepiece's own, apart from these cases. Unigram: of segmentations that score alike to seven digits
("=== =" and "= ===") another may be chosen, because scores are float32 there and float64 here. The table of
characters: sentencepiece replaces the longest entry that fits, the library looks at one cluster (a letter and its
marks) at a time, of up to 5 bytes it replaces the shortest entry that it begins with and drops the rest, of longer ones
each character by itself; so "\uff21\u0301" loses its accent, and half-width kana stay apart from their voicing mark. Of
text in NFC such clusters are rare ones. White space at the end other than spaces, such as U+0085, is dropped here.
Symbols defined by the user:
the space before one is lost. The name of a control piece, as "[MASK]", is ordinary text in both; but in a unigram
model that lacks one of its characters it comes out as that piece, and the store has the unknown token in its place.
"""

from collections.abc import Iterable
from typing import Any

import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2 as messages
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from data_prep.tokenizer.roles import (
    MODEL_INPUT_NAMES,
    MODEL_MAX_LENGTH,
    StoreTokenizer,
    around_sentences,
    describe,
    special_token,
)
from pretrain.errors import UsageError

SPACE = "▁"
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
# Far below any path of real pieces (some -20 each), so that text never becomes such a piece.
_NEVER = -1e6
_NAMES = {
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
}
_NEW_NAMES = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}


def parse_model(content: bytes, source: str) -> Any:
    """The model's protocol buffer; raises UsageError for a kind of model that has no pipeline.

    Of bytes that are no model the parsers raise what they raise.
    """
    proto = messages.ModelProto()
    if content:  # the processor takes no bytes for no model
        proto.ParseFromString(content)
        sentencepiece.SentencePieceProcessor(model_proto=content)
    if [piece.type for piece in proto.pieces].count(_UNKNOWN) != 1:
        raise ValueError("it has no piece for unknown text")
    if proto.trainer_spec.model_type not in (_UNIGRAM, _BPE):
        raise UsageError(
            f"{source} is a sentencepiece model of words or characters; only unigram and bpe are read."
        )
    if proto.trainer_spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
        raise UsageError(
            f"{source} marks the ends of words, or no spaces at all (treat_whitespace_as_suffix, "
            "escape_whitespaces); only models that put the mark before a word are read."
        )
    return proto


def convert_model(proto: Any, source: str) -> StoreTokenizer:
    """The tokenizer of a parsed model; roles that no piece has are added at the end, and noted."""
    roles, added = _roles(proto)
    tokenizer = Tokenizer(_unigram(proto) if proto.trainer_spec.model_type == _UNIGRAM else _bpe(proto))
    tokenizer.normalizer = _normalizer(proto.normalizer_spec)
    prefix = "first" if proto.normalizer_spec.add_dummy_prefix else "never"
    is_cut_at_spaces = not any(
        SPACE in piece.piece[1:] for piece in proto.pieces if piece.type in (_NORMAL, _USER_DEFINED)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=prefix, split=is_cut_at_spaces)
    tokenizer.decoder = _decoder(proto, prefix)
    names = set(roles.values())
    tokenizer.add_tokens(
        [
            AddedToken(
                piece.piece, normalized=False, special=piece.type != _USER_DEFINED or piece.piece in names
            )
            for piece in proto.pieces
            if piece.type in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ]
    )
    tokenizer.add_special_tokens([special_token(roles[role]) for role in added])
    tokenizer.post_processor = around_sentences(tokenizer, roles["cls"], roles["sep"])
    notes = tuple(
        f"{source} has no {role} token: {roles[role]} was added as id {tokenizer.token_to_id(roles[role])}."
        for role in added
    )
    if proto.normalizer_spec.precompiled_charsmap:
        notes += (
            f"{source}: ids are those of sentencepiece, but for letters with combining marks (bring text to NFC "
            "first), half-width kana with voicing marks, and white space such as U+0085 at the end of a sentence.",
        )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MODEL_MAX_LENGTH,
        model_input_names=list(MODEL_INPUT_NAMES),
        **{f"{role}_token": token for role, token in roles.items()},
    )
    return describe(fast, source, notes)


def _unigram(proto: Any) -> models.Unigram:
    return models.Unigram(
        [
            (piece.piece, piece.score if piece.type in (_NORMAL, _USER_DEFINED) else _NEVER)
            for piece in proto.pieces
        ],
        unk_id=_unknown_id(proto),
        byte_fallback=proto.trainer_spec.byte_fallback,
    )


def _bpe(proto: Any) -> models.BPE:
    return models.BPE(
        {piece.piece: index for index, piece in enumerate(proto.pieces)},
        list(_merges(proto)),
        unk_token=proto.pieces[_unknown_id(proto)].piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )


def _merges(proto: Any) -> Iterable[tuple[str, str]]:
    """sentencepiece joins any two neighbours whose union is a piece, the union of the highest score first."""
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type in (_NORMAL, _USER_DEFINED)}
    for union in sorted(scores, key=lambda piece: -scores[piece]):
        for cut in range(len(union) - 1, 0, -1):
            if union[:cut] in scores and union[cut:] in scores:
                yield union[:cut], union[cut:]


def _normalizer(spec: Any) -> normalizers.Sequence:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        # A space at the start stays: it is the "▁" of the first word, and the space after a special token.
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=False, right=True)]
    return normalizers.Sequence(steps)


def _decoder(proto: Any, prefix: str) -> decoders.Decoder:
    if not proto.trainer_spec.byte_fallback:
        return decoders.Metaspace(SPACE, prepend_scheme=prefix)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps if prefix == "never" else [*steps, decoders.Strip(" ", 1, 0)])


def _unknown_id(proto: Any) -> int:
    return next(index for index, piece in enumerate(proto.pieces) if piece.type == _UNKNOWN)


def _roles(proto: Any) -> tuple[dict[str, str], list[str]]:
    """(token of each role, roles whose token is new). Names come first, then sentencepiece's own ids."""
    symbols = {piece.piece for piece in proto.pieces if piece.type in (_CONTROL, _USER_DEFINED)}
    unknown = proto.pieces[_unknown_id(proto)].piece
    spec = proto.trainer_spec
    own_ids = {"cls": spec.bos_id, "sep": spec.eos_id, "pad": spec.pad_id, "mask": -1}
    roles, added = {"unk": unknown}, []
    for role, names in _NAMES.items():
        of_own_id = proto.pieces[own_ids[role]].piece if 0 <= own_ids[role] < len(proto.pieces) else None
        known = [name for name in (*names, of_own_id) if name in symbols]
        if not known:
            added.append(role)
        roles[role] = known[0] if known else names[0] if unknown.startswith("[") else _NEW_NAMES[role]
    return roles, added
