"""A store whose rows are known by hand, and what `plan` says of a run on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.data.store import Documents, StoreLayout, StoreWriter
from pretrain.faults.tiny import SPECIAL, VOCAB_SIZE
from tests.command.runs import command

TEXT_TOKENS = 30
NUM_DOCUMENTS = 100


def write_even_store(path: Path) -> Path:
    """100 documents of one sentence of 30 tokens: with [CLS] and [SEP] a sample of 32 each. Blocks of one document."""
    layout = StoreLayout(VOCAB_SIZE, SPECIAL, (0, 1, 2, 3, 4), block_tokens=TEXT_TOKENS, shard_tokens=20_000)
    with StoreWriter(path, layout) as writer:
        (writer.tokenizer_path / "tokenizer.json").write_text("{}")
        for _ in range(NUM_DOCUMENTS):
            document = Documents(
                tokens=np.arange(5, 5 + TEXT_TOKENS, dtype=np.uint32),
                sentence_lengths=np.array([TEXT_TOKENS], dtype=np.uint32),
                document_lengths=np.array([1], dtype=np.uint32),
                word_starts=np.ones(TEXT_TOKENS, dtype=np.bool_),
            )
            writer.add("train", document)
        writer.finish({"options": {}})
    return path


def planned(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """The JSON document, for a GPU: nothing is measured then."""
    capsys.readouterr()
    assert command("plan", "--json", "--device=cuda", *arguments) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found
