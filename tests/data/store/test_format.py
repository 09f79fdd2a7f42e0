"""FORMAT.md is enough: a reader written from that page alone reads what the writer wrote."""

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from pretrain.data.store import TokenStore, merge_parts
from tests.data.store.documents import layout_of, random_texts, write

Document = tuple[list[list[int]], list[list[bool]]]  # sentences of ids, and whether each begins a word


def read_manifest(store: Path) -> dict[str, Any]:
    content = (store / "manifest.json").read_bytes()
    manifest: dict[str, Any] = json.loads(content)
    assert manifest["format"] == "pretrain-token-store"
    if manifest["version"] == 2:
        digits = content[-68:-4]
        assert content.endswith(b',\n "manifest_sha256": "' + digits + b'"\n}\n')
        assert hashlib.sha256(content[:-68] + content[-4:]).hexdigest() == digits.decode()
    for name, entry in manifest["files"].items():
        content = (store / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])
    return manifest


def numbers(path: Path, code: str) -> list[int]:
    content = path.read_bytes()
    return list(struct.unpack(f"<{len(content) // struct.calcsize('<' + code)}{code}", content))


def read_blocks(store: Path, split: str) -> list[list[Document]]:
    """Every block of a split: its documents."""
    manifest = read_manifest(store)
    blocks = []
    for shard in manifest["splits"][split]["shards"]:
        stem = str(store / shard["name"])
        tokens = numbers(Path(stem + ".tokens"), {"uint16": "H", "uint32": "I"}[manifest["token_dtype"]])
        sentences, documents = (numbers(Path(stem + end), "I") for end in (".sentences", ".documents"))
        words, table = Path(stem + ".words").read_bytes(), numbers(Path(stem + ".blocks"), "Q")
        assert (len(tokens), len(sentences), len(documents)) == tuple(table[-3:])
        token = sentence = 0
        for row in range(0, len(table) - 3, 3):
            assert [token, sentence] == table[row : row + 2]
            block: list[Document] = []
            for num_sentences in documents[table[row + 2] : table[row + 5]]:
                ids, starts = [], []
                for num_tokens in sentences[sentence : sentence + num_sentences]:
                    span = range(token, token + num_tokens)
                    ids.append([tokens[t] for t in span])
                    starts.append([bool(words[t // 8] >> t % 8 & 1) for t in span])
                    token += num_tokens
                sentence += num_sentences
                block.append((ids, starts))
            blocks.append(block)
    return blocks


def blocks_of(store: Path, split: str) -> list[list[int]]:
    view = TokenStore.open(store).split(split)
    return [view.block(index).tokens.tolist() for index in range(view.num_blocks)]


@pytest.mark.parametrize("vocab_size", [100, 70_000])
def test_a_reader_from_the_page_alone_reads_the_store(tmp_path: Path, vocab_size: int) -> None:
    texts = {"train": random_texts(60), "heldout": random_texts(4, seed=1)}
    write(tmp_path / "store", [texts["train"]], heldout=texts["heldout"], layout=layout_of(vocab_size))
    for split, expected in texts.items():
        blocks = read_blocks(tmp_path / "store", split)
        assert [ids for block in blocks for ids, _ in block] == expected
        words = [[[token % 2 == 0 for token in sentence] for sentence in text] for text in expected]
        assert [starts for block in blocks for _, starts in block] == words
        flat = [[token for ids, _ in block for sentence in ids for token in sentence] for block in blocks]
        assert flat == blocks_of(tmp_path / "store", split)


def test_it_reads_parts_without_knowing_of_them(tmp_path: Path) -> None:
    parts = [tmp_path / "whole" / f"part-0000{number}-of-00002" for number in (1, 2)]
    for number, part in enumerate(parts):
        write(part, [random_texts(20, seed=number)])
    merge_parts(tmp_path / "whole", parts, {})
    blocks = read_blocks(tmp_path / "whole", "train")
    assert [ids for block in blocks for ids, _ in block] == random_texts(20, 0) + random_texts(20, 1)


def test_it_reads_version_1() -> None:
    folder = Path(__file__).parent
    expected = json.loads((folder / "version_1.json").read_text())
    heldout = [ids for block in read_blocks(folder / "version_1", "heldout") for ids, _ in block]
    assert heldout == [expected["documents"][index] for index in expected["heldout"]]


def test_the_page_names_every_key(tmp_path: Path) -> None:
    write(tmp_path / "store", [random_texts(5)])
    page = (Path(__file__).parents[3] / "pretrain/data/store/FORMAT.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(read_manifest(tmp_path / "store"))
