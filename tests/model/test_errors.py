"""What the user gets wrong comes back as one sentence that names the key, the file and the numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from pretrain.errors import DataError, UsageError
from pretrain.model import ModelOptions
from pretrain.model.configs import check_tokenizer
from tests.model.packed_rows import SPECIAL_IDS, VOCAB_SIZE
from tests.model.tiny_models import build, build_tiny, write_config

TINY = ModelOptions(preset="bert-tiny")
Messages = tuple[str, ...]


@pytest.mark.parametrize(
    ("options", "changes", "parts"),
    [
        (ModelOptions(), {}, ("no model is named", "model.preset", "model.config", "model.pretrained")),
        (
            ModelOptions(preset="bert-tiny", config="c.json"),
            {},
            ("model.preset and model.config", "exactly one"),
        ),
        (ModelOptions(preset="bert-smal"), {}, ("model.preset", "'bert-smal'", "did you mean 'bert-small'")),
        (TINY, {"seq_len": 513}, ("data.seq_len", "513", "512 positions", "model.preset")),
        (ModelOptions(preset="bert-tiny", dropout=1.5), {}, ("model.dropout", "1.5")),
        (ModelOptions(preset="bert-tiny", attention_dropout=1.0), {}, ("model.attention_dropout", "1.0")),
        (ModelOptions(preset="bert-tiny", activation_checkpointing=0), {}, ("activation_checkpointing", "0")),
        (
            ModelOptions(preset="bert-tiny", activation_checkpointing=True),
            {},
            ("activation_checkpointing", "True"),
        ),
        (ModelOptions(config="nowhere.json"), {}, ("model.config", "nowhere.json", "No such file")),
        (ModelOptions(pretrained="nowhere"), {}, ("model.pretrained", "nowhere", "not a folder")),
    ],
)
def test_options(options: ModelOptions, changes: dict[str, Any], parts: Messages) -> None:
    assert_says(parts, lambda: build(options, **changes))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ("model.config", "not valid JSON")),
        ("[1]", ("model.config", "JSON object", "list")),
        ("{}", ("model.config", "model_type 'None'", "bert")),
        ('{"model_type": "brt"}', ("model.config", "'brt' is unknown", "bert, ", "roberta")),
        ('{"model_type": "gpt2"}', ("model.config", "'gpt2' is not supported", "modernbert")),
        ('{"model_type": ["bert"]}', ("model.config", "unknown")),
        ('{"model_type": "bert", "hiden_size": 64}', ("model.config", "'hiden_size'", "'hidden_size'")),
        ('{"model_type": "bert", "hidden_size": "wide"}', ("model.config", "hidden_size", "str")),
        ('{"model_type": "bert", "hidden_size": 100}', ("model.config", "hidden size (100)", "heads")),
        ('{"model_type": "bert", "hidden_act": "golu"}', ("model.config", "'golu'")),
        ('{"model_type": "bert", "num_attention_heads": 0}', ("model.config", "no model can be made")),
        ('{"model_type": "bert", "is_decoder": true}', ("model.config", "is_decoder = True", "False")),
        ('{"model_type": "bert", "position_embedding_type": "relative_key"}', ("relative_key", "'absolute'")),
        ('{"model_type": "bert", "vocab_size": 50}', ("model.config", " 50 ", f" {VOCAB_SIZE}")),
    ],
)
def test_config_json(tmp_path: Path, content: str, parts: Messages) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    assert_says(parts, lambda: build(ModelOptions(config=path)))


def test_an_objective_with_pairs_needs_a_model_with_an_nsp_head(tmp_path: Path) -> None:
    assert_says(
        ("data.objective", "'nsp'", "'roberta'", "model.config"),
        lambda: build_tiny(tmp_path, "roberta", "nsp"),
    )


def test_roberta_has_fewer_positions_than_its_config_says(tmp_path: Path) -> None:
    path = write_config(tmp_path, "roberta", max_position_embeddings=514)
    options = ModelOptions(config=path)
    special_ids = SPECIAL_IDS | {"pad": 1, "unk": 0}
    build(options, seq_len=512, special_ids=special_ids)
    assert_says(
        ("data.seq_len", "513", "512 positions"), lambda: build(options, seq_len=513, special_ids=special_ids)
    )


def test_a_pretrained_vocabulary_of_another_size(tmp_path: Path) -> None:
    build_tiny(tmp_path, "bert").encoder.save_pretrained(tmp_path / "model")
    options = ModelOptions(pretrained=tmp_path / "model")
    assert_says(("model.pretrained", "97", "61"), lambda: build(options, vocab_size=61))
    assert_says(
        ("model.pretrained", "padding", "0", "6"),
        lambda: build(options, special_ids=SPECIAL_IDS | {"pad": 6}),
    )


def test_a_pretrained_tokenizer_that_is_not_the_stores(tmp_path: Path) -> None:
    build_tiny(tmp_path, "bert").encoder.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "store", ["[PAD]", "[UNK]", "cat", "dog"])
    options = ModelOptions(pretrained=tmp_path / "model")
    write_tokenizer(tmp_path / "model", ["[PAD]", "[UNK]", "cat", "dog"])
    build(options, tokenizer_path=tmp_path / "store")
    write_tokenizer(tmp_path / "model", ["[PAD]", "[UNK]", "dog", "cat"])
    parts = ("model.pretrained", "'cat'", "3 there", "2 in the store")
    assert_says(parts, lambda: build(options, tokenizer_path=tmp_path / "store"))


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    write_config(tmp_path, "bert")
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    options = ModelOptions(pretrained=tmp_path)
    assert_says(("model.pretrained", "safetensors"), lambda: build(options))
    (tmp_path / "something_else.safetensors").write_bytes(b"")
    assert_says(("model.pretrained", str(tmp_path)), lambda: build(options), DataError)


def test_damaged_weights(tmp_path: Path) -> None:
    build_tiny(tmp_path, "bert").encoder.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    options = ModelOptions(pretrained=tmp_path / "model")
    assert_says(("model.pretrained", str(tmp_path / "model")), lambda: build(options), DataError)


def test_weights_of_another_model(tmp_path: Path) -> None:
    build_tiny(tmp_path, "roberta").encoder.save_pretrained(tmp_path / "model")
    write_config(tmp_path / "model", "bert", vocab_size=VOCAB_SIZE)
    options = ModelOptions(pretrained=tmp_path / "model")
    assert_says(("model.pretrained", "lacks", "'bert'"), lambda: build(options), DataError)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    build_tiny(tmp_path, "bert").encoder.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    options = ModelOptions(pretrained=tmp_path / "model")
    assert_says(("model.pretrained",), lambda: build(options), DataError)


@pytest.mark.parametrize("content", ["{}", "", "not JSON"])
def test_a_broken_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    write_tokenizer(tmp_path, ["[UNK]"])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text(content)
    assert_says(
        (f"{tmp_path}/model/tokenizer.json is nothing that the tokenizers library reads",),
        lambda: check_tokenizer(tmp_path / "model", tmp_path, "model.pretrained"),
        DataError,
    )


def write_tokenizer(folder: Path, words: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(words)}
    Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))


def assert_says(parts: Messages, action: Callable[[], object], kind: type[Exception] = UsageError) -> None:
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
