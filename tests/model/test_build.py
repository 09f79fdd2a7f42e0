"""What `build_model` makes: sizes, seeds, names, ties, dropout, pretrained weights, export."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertForPreTraining

from pretrain.model import ModelOptions, PretrainingModel
from pretrain.model.presets import PRESETS
from tests.model.packed_rows import SPECIAL_IDS, VOCAB_SIZE, lay_out, make_samples
from tests.model.tiny_models import MODEL_TYPES, SEQ_LEN, build, build_tiny, write_config

CASES = [("bert", "nsp"), *((model_type, "mlm") for model_type in MODEL_TYPES)]


def weights(model: PretrainingModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.encoder.named_parameters()}


@pytest.mark.parametrize("name", ["bert-tiny", "bert-mini"])
def test_a_preset_has_the_size_of_its_name(name: str) -> None:
    config = build(ModelOptions(preset=name), "nsp").encoder.config
    preset = PRESETS[name]
    assert (config.num_hidden_layers, config.hidden_size) == (preset.num_layers, preset.hidden_size)
    assert config.num_attention_heads == config.hidden_size // 64
    assert config.intermediate_size == 4 * config.hidden_size
    assert config.vocab_size == VOCAB_SIZE


def test_bert_base_has_the_published_number_of_parameters() -> None:
    """110M (Devlin et al. 2018); the exact count of BertModel with BERT's vocabulary of 30,522 is known."""
    model = build(ModelOptions(preset="bert-base"), "nsp", vocab_size=30522)
    assert sum(parameter.numel() for parameter in model.encoder.base_model.parameters()) == 109_482_240


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_seed_alone_decides_the_weights(tmp_path: Path, model_type: str) -> None:
    options = ModelOptions(config=write_config(tmp_path, model_type))
    first = weights(build(options, seed=1))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = weights(build(options, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(again[name], value) for name, value in first.items())
    other = weights(build(options, seed=2))
    assert any(not torch.equal(other[name], value) for name, value in first.items())


@pytest.mark.parametrize(("model_type", "objective"), CASES)
def test_every_parameter_is_fp32_and_gets_a_gradient(tmp_path: Path, model_type: str, objective: str) -> None:
    model = build_tiny(tmp_path, model_type, objective)
    sum(model(lay_out([make_samples([13, 9], nsp=objective == "nsp")], SEQ_LEN))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None and bool(parameter.grad.any()), name


@pytest.mark.parametrize(("model_type", "objective"), CASES)
def test_tied_weights_are_one_parameter(tmp_path: Path, model_type: str, objective: str) -> None:
    encoder = build_tiny(tmp_path, model_type, objective).encoder
    embeddings = encoder.get_input_embeddings().weight
    assert encoder.get_output_embeddings().weight is embeddings
    names = [name for name, parameter in encoder.named_parameters() if parameter is embeddings]
    assert len(names) == 1
    assert len(list(encoder.parameters())) == len({id(parameter) for parameter in encoder.parameters()})


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_blocks_are_the_layers_in_order(tmp_path: Path, model_type: str) -> None:
    model = build_tiny(tmp_path, model_type)
    names = {id(module): name for name, module in model.encoder.named_modules()}
    assert [names[id(block)].rpartition(".")[2] for block in model.blocks()] == ["0", "1", "2"]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_dropout_reaches_every_dropout_of_the_trunk(tmp_path: Path, model_type: str) -> None:
    path = write_config(tmp_path, model_type)
    model = build(ModelOptions(config=path, dropout=0.25))
    probabilities = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert probabilities and set(probabilities) == {0.25}
    config = model.encoder.config
    attention = "attention_dropout" if model_type == "modernbert" else "attention_probs_dropout_prob"
    assert getattr(config, attention) == 0.25
    kept = build(ModelOptions(config=path)).encoder.config
    assert getattr(kept, attention) == (0.0 if model_type == "modernbert" else 0.1)


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_attention_has_a_dropout_of_its_own(tmp_path: Path, model_type: str) -> None:
    path = write_config(tmp_path, model_type)
    encoder = build(ModelOptions(config=path, dropout=0.25, attention_dropout=0.0)).encoder
    attention = "attention_dropout" if model_type == "modernbert" else "attention_probs_dropout_prob"
    assert getattr(encoder.config, attention) == 0.0
    others = {part.p for part in encoder.modules() if isinstance(part, torch.nn.Dropout)}
    assert 0.25 in others and others <= {0.0, 0.25}


def test_attention_dropout_alone_changes_the_loss_in_training_only(tmp_path: Path) -> None:
    path = write_config(tmp_path, "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    model = build(ModelOptions(config=path))
    batch = lay_out([make_samples([13, 9], nsp=False)], SEQ_LEN)
    with torch.no_grad():
        assert model.train()(batch)[0] != model(batch)[0]
        assert model.eval()(batch)[0] == model(batch)[0]


def test_a_new_model_takes_its_special_ids_from_the_store(tmp_path: Path) -> None:
    special_ids = SPECIAL_IDS | {"pad": 7, "cls": 8, "sep": 9}
    path = write_config(tmp_path, "roberta", pad_token_id=1)
    model = build(ModelOptions(config=path), special_ids=special_ids)
    config = model.encoder.config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (7, 8, 9)
    assert model.encoder.get_input_embeddings().padding_idx == 7


def test_a_config_without_a_vocabulary_takes_that_of_the_store(tmp_path: Path) -> None:
    model = build(ModelOptions(config=write_config(tmp_path, "bert")), vocab_size=61)
    assert len(model.encoder.get_parameter("bert.embeddings.word_embeddings.weight")) == 61


@pytest.mark.parametrize(("model_type", "objective"), CASES)
def test_export_and_pretrained_are_inverse(tmp_path: Path, model_type: str, objective: str) -> None:
    model = build_tiny(tmp_path, model_type, objective)
    model.encoder.save_pretrained(tmp_path / "exported")
    loaded = build(ModelOptions(pretrained=tmp_path / "exported"), objective, seed=5)
    expected = weights(model)
    assert weights(loaded).keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in weights(loaded).items())
    batch = lay_out([make_samples([13, 9], nsp=objective == "nsp")], SEQ_LEN)
    for loss, exported in zip(loaded.eval()(batch), model.eval()(batch), strict=True):
        assert torch.equal(loss, exported)


def test_the_exported_folder_is_an_ordinary_model(tmp_path: Path) -> None:
    model = build_tiny(tmp_path, "bert", "nsp", activation_checkpointing="full")
    model.encoder.save_pretrained(tmp_path / "exported")
    assert "packed" not in (tmp_path / "exported" / "config.json").read_text()
    ids = torch.tensor([make_samples([12])[0].tokens])
    whole = BertForPreTraining.from_pretrained(tmp_path / "exported").eval()
    for_fill_mask = AutoModelForMaskedLM.from_pretrained(tmp_path / "exported").eval()
    torch.testing.assert_close(whole(ids).prediction_logits, for_fill_mask(ids).logits)


def test_a_head_that_the_pretrained_folder_lacks_starts_from_the_seed(tmp_path: Path) -> None:
    model = build_tiny(tmp_path, "bert", "mlm")
    model.encoder.save_pretrained(tmp_path / "mlm-only")
    options = ModelOptions(pretrained=tmp_path / "mlm-only")
    first, again = (weights(build(options, "nsp", seed=3)) for _ in range(2))
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert all(torch.equal(first[name], value) for name, value in weights(model).items())
    head = "cls.seq_relationship.weight"
    assert not torch.equal(weights(build(options, "nsp", seed=4))[head], first[head])


def test_building_and_loading_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = build_tiny(tmp_path, "bert", "mlm")
    model.encoder.save_pretrained(tmp_path / "exported")
    capfd.readouterr()
    build_tiny(tmp_path, "bert", "nsp", activation_checkpointing="full")
    build_tiny(tmp_path, "modernbert")  # its default special ids are beyond a small vocabulary
    build(ModelOptions(pretrained=tmp_path / "exported"), "nsp")
    assert capfd.readouterr() == ("", "")


def test_harmless_keys_of_older_configs_are_taken(tmp_path: Path) -> None:
    path = write_config(tmp_path, "bert", architectures=["BertForMaskedLM"], gradient_checkpointing=False)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"position_embedding_type": "absolute"}))
    assert build(ModelOptions(config=path)).encoder.config.hidden_size == 32
