"""A user's own text, from files to a model that fills masks: every command as the README types it."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForPreTraining, pipeline

from pretrain.data.store import TokenStore
from tests.end_to_end.runs import SEQ_LEN, TINY_RUN, launcher, pretrain, steps_of, write_model
from tests.worlds import ROOT, run_python

WHO = ("The miller", "An old teacher", "Her brother", "The captain", "A young doctor", "My neighbour")
DOES = ("sells", "carries", "repairs", "remembers", "paints", "hides")
WHAT = ("a wooden boat", "the red lantern", "two silver coins", "every letter", "a broken clock")
WHERE = ("near the harbour", "behind the church", "in the valley", "on market day", "under the bridge")

METRICS_KEYS = {
    *(
        "step",
        "loss",
        "mlm_loss",
        "nsp_loss",
        "lr",
        "grad_norm",
        "loss_scale",
        "skipped",
        "samples",
        "tokens",
    ),
    *("cursor", "seconds", "tokens_per_second", "mfu", "global_batch", "data_wait"),
}
EVAL_KEYS = {"step", "mlm_loss", "mask_only_loss", "unigram_entropy", "mlm_accuracy", "nsp_accuracy"}


def documents() -> list[str]:
    """150 documents of six sentences, no two alike."""
    sentences = [" ".join(words) + "." for words in itertools.product(WHO, DOES, WHAT, WHERE)]
    order = [sentences[index * 379 % len(sentences)] for index in range(len(sentences))]
    return [" ".join(order[start : start + 6]) for start in range(0, len(order), 6)]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text as files of .txt and as .jsonl, and a token store of each, built and verified."""
    folder = tmp_path_factory.mktemp("own")
    texts = documents()
    (folder / "text").mkdir()
    for part in range(3):
        (folder / "text" / f"part-{part}.txt").write_text("\n\n".join(texts[part::3]) + "\n")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    write_model(folder / "bert.json")
    write_model(folder / "roberta.json", "roberta", type_vocab_size=1)
    for name, store in (("text", "store-txt"), ("text.jsonl", "store-jsonl")):
        data_prep(
            "build", "--input", name, "--output", store, "--vocab-size", "300", "--heldout", "0.1", cwd=folder
        )
        assert "whole" in data_prep("verify", store, cwd=folder)
    return folder


def data_prep(*arguments: str, cwd: Path) -> str:
    result = run_python("-m", "data_prep", *arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_is_a_whole_run(run: Path, store: Path, num_steps: int = 3) -> None:
    """What the contract says of a run folder."""
    names = {path.name for path in run.iterdir()}
    files = {"config.json", "metrics.jsonl", "eval.jsonl", "events.jsonl", "ranks.jsonl", "finished"}
    assert names == files | {"tensorboard", "checkpoints", "model", "logs"}
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["train"]["steps"] == num_steps
    assert config["recipe"]["optimizer"]["eps"] == 1e-6  # a default, spelled out
    assert config["origins"]["train.steps"] == f"command line 'train.steps={num_steps}'"
    assert "stage" in config["ds_config"]["zero_optimization"]
    metrics, evaluations = lines_of(run / "metrics.jsonl"), lines_of(run / "eval.jsonl")
    assert steps_of(run) == list(range(1, num_steps + 1))
    assert all(line.keys() >= METRICS_KEYS for line in metrics)
    assert all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in metrics)
    assert metrics[0]["cursor"] == [0, 0, 0]
    assert evaluations[-1].keys() >= EVAL_KEYS
    assert evaluations[-1]["step"] == num_steps
    assert 0 < evaluations[-1]["unigram_entropy"] < math.log(TokenStore.open(store).vocab_size)
    latest = (run / "checkpoints" / "latest").read_text().strip()
    assert latest == f"step-{num_steps:08d}"
    assert (run / "checkpoints" / latest / "manifest.json").exists()
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [each.step for each in board.Scalars("train/loss")] == list(range(1, num_steps + 1))
    assert "heldout/mask_only_loss" in board.Tags()["scalars"]


def assert_fills_masks(model: Path, store: Path) -> None:
    """The folder alone is enough, tokenizer included."""
    fill = pipeline("fill-mask", model=str(model))
    guesses = fill("the miller [MASK] a wooden boat.", top_k=5)
    assert len(guesses) == 5
    vocabulary = TokenStore.open(store).vocab_size
    assert all(0 <= guess["token"] < vocabulary and 0 < guess["score"] < 1 for guess in guesses)
    assert fill.model.config.vocab_size == vocabulary
    assert (model / "tokenizer.json").read_bytes() == (store / "tokenizer" / "tokenizer.json").read_bytes()


def test_a_folder_of_txt_under_fsdp(own: Path) -> None:
    result = pretrain(
        *("--data", "store-txt", "--output", "run-txt", "--backend", "fsdp", "model.config=bert.json"),
        *TINY_RUN,
        cwd=own,
    )
    assert result.returncode == 0, result.stderr
    assert "[MASK]-only loss" in result.stdout
    assert "unigram entropy" in result.stdout
    assert_is_a_whole_run(own / "run-txt", own / "store-txt")
    assert_fills_masks(own / "run-txt" / "model", own / "store-txt")
    loaded: Any = BertForPreTraining.from_pretrained(own / "run-txt" / "model", output_loading_info=True)
    _, loading = loaded
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]


def test_a_folder_of_txt_under_the_deepspeed_launcher(own: Path) -> None:
    result = launcher(
        "deepspeed",
        *(
            "--ds_config",
            ROOT / "ds_configs" / "zero2_fp32.json",
            "--data",
            "store-txt",
            "--output",
            "run-zero2",
        ),
        *("model.config=bert.json", *TINY_RUN),
        cwd=own,
    )
    assert result.returncode == 0, result.stderr
    assert "deepspeed stage 2, fp32, 2 rank(s)" in result.stdout
    assert_is_a_whole_run(own / "run-zero2", own / "store-txt")
    assert_fills_masks(own / "run-zero2" / "model", own / "store-txt")


def test_jsonl_mlm_only_with_roberta(own: Path) -> None:
    result = pretrain(
        *("--data", "store-jsonl", "--output", "run-jsonl", "--backend", "fsdp", "model.config=roberta.json"),
        *("data.objective=mlm", *TINY_RUN),
        cwd=own,
    )
    assert result.returncode == 0, result.stderr
    assert_is_a_whole_run(own / "run-jsonl", own / "store-jsonl")
    assert {line["nsp_loss"] for line in lines_of(own / "run-jsonl" / "metrics.jsonl")} == {0.0}
    assert lines_of(own / "run-jsonl" / "eval.jsonl")[-1]["nsp_accuracy"] is None
    assert_fills_masks(own / "run-jsonl" / "model", own / "store-jsonl")
    model = AutoModelForMaskedLM.from_pretrained(own / "run-jsonl" / "model")
    assert model.config.model_type == "roberta"
    assert model.config.max_position_embeddings == SEQ_LEN + 8
    # Its embeddings know one type of token: those of a pair must not be told apart.
    pair = AutoTokenizer.from_pretrained(own / "run-jsonl" / "model")("a few", "words", return_tensors="pt")
    assert "token_type_ids" not in pair
    assert model(**pair).logits.isfinite().all()


def test_every_document_and_sentence_of_both_forms_is_there(own: Path) -> None:
    for name in ("store-txt", "store-jsonl"):
        splits = TokenStore.open(own / name).manifest.splits.values()
        assert sum(split.documents for split in splits) == 150
        assert sum(split.sentences for split in splits) == 900
