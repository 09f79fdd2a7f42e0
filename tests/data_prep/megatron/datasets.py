"""Small Megatron datasets, written field by field as Megatron-LM's `_IndexWriter` lays them out, and a tokenizer."""

import struct
from pathlib import Path

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

# Megatron's dtype codes and the letters of `struct` for one id.
CODES = {
    "uint8": (1, "B"),
    "int8": (2, "b"),
    "int16": (3, "h"),
    "int32": (4, "i"),
    "int64": (5, "q"),
    "uint16": (8, "H"),
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "cat", "sat", "##s", "on", "mat", ".", "dog", "##ing", "walk")

Document = list[list[int]]


def write_dataset(prefix: Path, documents: list[Document], dtype: str = "uint16") -> Path:
    """PREFIX.idx and PREFIX.bin; each document is a list of sequences of ids."""
    code, letter = CODES[dtype]
    sequences = [sequence for document in documents for sequence in document]
    content = b"".join(struct.pack(f"<{len(each)}{letter}", *each) for each in sequences)
    item = struct.calcsize(f"<{letter}")
    pointers, indices = [0], [0]
    for sequence in sequences:
        pointers.append(pointers[-1] + item * len(sequence))
    for document in documents:
        indices.append(indices[-1] + len(document))
    index = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", code)
    index += struct.pack("<QQ", len(sequences), len(indices))
    index += struct.pack(f"<{len(sequences)}i", *map(len, sequences))
    index += struct.pack(f"<{len(sequences)}q", *pointers[:-1])
    index += struct.pack(f"<{len(indices)}q", *indices)
    Path(f"{prefix}.idx").write_bytes(index)
    Path(f"{prefix}.bin").write_bytes(content)
    return prefix


def make_tokenizer() -> Tokenizer:
    """A WordPiece tokenizer whose ids are the places in `SPECIAL` and, behind them, `WORDS`."""
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: Tokenizer) -> Path:
    """As a Hugging Face folder."""
    names = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(str(folder))
    return folder
