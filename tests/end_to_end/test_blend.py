"""Runs over several stores, and the log of their samples, as a user types them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pretrain.faults.tiny import write_tiny_store
from tests.end_to_end.runs import error_of, launcher, pretrain_each, write_model

_TIMES = ("seconds", "tokens_per_second", "mfu", "data_wait")
STEPS, GLOBAL_BATCH, EVAL_ROWS = 8, 4, 6
BLEND = """
[[data.blend]]
store = "one"
weight = 2
[[data.blend]]
store = "two"
weight = 1
"""
EPOCHS = BLEND.replace("weight = 2", "epochs = 2").replace("weight = 1", "epochs = 1")


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    found = map(json.loads, (run / name).read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in _TIMES} for line in found]


def state_of(run: Path) -> dict[str, Any]:
    latest = (run / "checkpoints" / "latest").read_text().strip()
    manifest: dict[str, Any] = json.loads((run / "checkpoints" / latest / "manifest.json").read_text())
    return manifest


def prepare(folder: Path) -> None:
    for number, name in enumerate(("one", "two", "three")):
        write_tiny_store(folder / name, 60 + 20 * number, seed=number)
    write_model(folder / "model.json")
    for name, blend in (("blend", BLEND), ("epochs", EPOCHS)):
        (folder / f"{name}.toml").write_text(
            f"""
data.seq_len = 32
model.config = "model.json"
train = {{ steps = {STEPS}, global_batch = {GLOBAL_BATCH} }}
eval = {{ every = 3, rows = {EVAL_ROWS} }}
log = {{ every = 1, samples = true }}
{blend}
"""
        )


def case(output: str, *more: str, recipe: str = "blend") -> tuple[str, ...]:
    return ("--backend", "fsdp", "--recipe", f"{recipe}.toml", "--output", output, *more)


THREE = 'data.blend=[{store="one", weight=2}, {store="three", weight=1}]'
CASES = {
    "whole": case("whole"),
    "stopped": case("stopped", "train.stop_at_step=5"),
    "other shares": case("stopped", "data.blend.0.weight=3"),
    "other stores": case("stopped", THREE),
    "other order": case("stopped", 'data.blend=[{store="two", weight=1}, {store="one", weight=2}]'),
    "one store": case("stopped", "data.store=one"),
    "data and blend": case("stopped", "--data", "one"),
    "twice": case("twice", "data.blend.1.store=./one"),
    "few rows": case("few", "eval.rows=1"),
    "continued": case("stopped"),
    "accumulated": case("accumulated", "train.micro_batch=1"),
    "seed": case("seed", "seed=7"),
    "epochs": case("epochs", recipe="epochs"),
    "alone": case("alone", "data.store=one"),
    "blend of one": case("of-one", 'data.blend=[{store="one", weight=5}]'),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("blend")
    prepare(path)
    ends = dict(zip(CASES, pretrain_each(list(CASES.values()), path), strict=True))
    (path / "ends").write_text(
        json.dumps({name: (end.returncode, end.stdout, end.stderr) for name, end in ends.items()})
    )
    return path


def end(folder: Path, name: str) -> tuple[int, str, str]:
    code, out, err = json.loads((folder / "ends").read_text())[name]
    return code, out, err


pytestmark = pytest.mark.slow


def test_a_blend_is_trained_on_and_says_so(folder: Path) -> None:
    code, out, err = end(folder, "whole")
    assert code == 0, err
    assert "rows: 66.67% from one, 33.33% from two" in out
    config = json.loads((folder / "whole" / "config.json").read_text())
    manifest = state_of(folder / "whole")["state"]
    assert [(each["name"], each["weight"]) for each in config["blend"]] == [("one", 2), ("two", 1)]
    assert len({each["fingerprint"] for each in config["blend"]}) == 2
    assert manifest["blend"] == config["blend"]
    assert manifest["store_fingerprint"] == config["store_fingerprint"]
    cursors = [line["cursor"] for line in lines(folder / "whole", "metrics.jsonl")]
    assert [cursor[0] for cursor in cursors] == [GLOBAL_BATCH * step for step in range(STEPS)]
    assert {len(cursor) for cursor in cursors} == {7}


def test_the_log_has_the_samples_of_every_step_in_the_shares_of_the_stores(folder: Path) -> None:
    records, logged = (lines(folder / "whole", f"{name}.jsonl") for name in ("metrics", "samples"))
    assert [line["step"] for line in logged] == list(range(1, STEPS + 1))
    assert [len(line["samples"]) for line in logged] == [record["samples"] for record in records]
    names = [name for line in logged for name in line["samples"]]
    assert len(set(names)) == len(names)
    assert {name.split(":")[0] for name in names} == {"0", "1"}


def test_validation_has_each_store(folder: Path) -> None:
    for record in lines(folder / "whole", "eval.jsonl"):
        one, two = record["stores"]["one"], record["stores"]["two"]
        assert (one["rows"], two["rows"]) == (4, 2)
        assert record["rows"] == EVAL_ROWS
        masked = one["masked"] + two["masked"]
        total = one["mlm_loss"] * one["masked"] + two["mlm_loss"] * two["masked"]
        assert record["mlm_loss"] == pytest.approx(total / masked)
    assert "stores" not in lines(folder / "alone", "eval.jsonl")[0]


def test_a_blend_goes_on_bit_for_bit(folder: Path) -> None:
    assert end(folder, "stopped")[0] == 75
    code, out, err = end(folder, "continued")
    assert code == 0, err
    assert "after step 5, bit for bit." in out
    for name in ("metrics.jsonl", "eval.jsonl", "samples.jsonl"):
        assert lines(folder / "stopped", name) == lines(folder / "whole", name)
    ours, theirs = state_of(folder / "stopped"), state_of(folder / "whole")
    assert [file["sha256"] for file in ours["files"]] == [file["sha256"] for file in theirs["files"]]
    assert ours["state"]["cursor"] == theirs["state"]["cursor"]


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("other shares", 2, "its stores shared the rows 2 : 1, now 3 : 1. Make data.blend equal"),
        ("other stores", 3, "another blend: two is not there now; three is new"),
        ("other order", 2, "its stores came in the order one, two"),
        ("one store", 2, "was trained on a blend, and this run reads one store"),
        ("data and blend", 2, "--data names one store and data.blend several"),
        ("twice", 2, "data.blend names the same store twice, as one and as ./one"),
        ("few rows", 2, "eval.rows is 1, but 2 stores have held-out text"),
    ],
)
def test_another_blend_is_refused_in_a_sentence(folder: Path, name: str, code: int, message: str) -> None:
    found, _, err = end(folder, name)
    assert found == code
    assert message in error_of(err)


def test_the_cut_changes_no_sample_and_the_seed_does(folder: Path) -> None:
    logs = {
        name: lines(folder / name, "samples.jsonl") for name in ("whole", "accumulated", "seed", "epochs")
    }
    assert logs["accumulated"] == logs["whole"]
    assert logs["seed"] != logs["whole"]
    assert logs["epochs"] != logs["whole"]


def test_epochs_are_shares_of_rows_by_tokens(folder: Path) -> None:
    tokens = [
        json.loads((folder / name / "manifest.json").read_text())["splits"]["train"]["tokens"]
        for name in ("one", "two")
    ]
    config = json.loads((folder / "epochs" / "config.json").read_text())
    one, two = (each["weight"] for each in config["blend"])
    assert one * tokens[1] == 2 * two * tokens[0]


def test_a_blend_of_one_store_is_that_store(folder: Path) -> None:
    for name in ("metrics.jsonl", "eval.jsonl", "samples.jsonl"):
        assert lines(folder / "of-one", name) == lines(folder / "alone", name)
    alone, of_one = state_of(folder / "alone")["state"], state_of(folder / "of-one")["state"]
    assert alone["blend"] == of_one["blend"] == []
    assert alone["store_fingerprint"] == of_one["store_fingerprint"]


def test_two_ranks_log_the_samples_of_one(folder: Path) -> None:
    result = launcher("torchrun", *case("two-ranks", "train.steps=4"), cwd=folder)
    assert result.returncode == 0, result.stderr
    assert lines(folder / "two-ranks", "samples.jsonl") == lines(folder / "whole", "samples.jsonl")[:4]
    cursors = [
        [line["cursor"] for line in lines(folder / run, "metrics.jsonl")] for run in ("two-ranks", "whole")
    ]
    assert cursors[0] == cursors[1][:4]


def test_a_store_without_held_out_text_is_left_out_with_a_warning(folder: Path) -> None:
    shutil.rmtree(folder / "none", ignore_errors=True)
    write_tiny_store(folder / "none", 7, seed=3)
    (result,) = pretrain_each([case("left-out", "data.blend.1.store=none", "train.steps=1")], folder)
    assert result.returncode == 0, result.stderr
    assert "warning: none has too little held-out text: validation leaves it out" in result.stdout
    (record,) = lines(folder / "left-out", "eval.jsonl")
    assert record["rows"] == EVAL_ROWS
    assert record["stores"]["one"]["rows"] == EVAL_ROWS
    assert list(record["stores"]) == ["one"]
