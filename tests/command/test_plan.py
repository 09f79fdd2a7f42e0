"""`plan` as a user types it: tables, JSON, the samples of a real run, its files and its memory, bad input."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pretrain.config import resolve
from tests.benchmarks import plan_memory
from tests.benchmarks.plan_memory import Cell
from tests.checkpoint.saved import OLD
from tests.command.runs import STORE, command
from tests.plan.stores import planned
from tests.worlds import ROOT

RUN = ("--data", STORE, "model.preset=bert-tiny")


def test_tables_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--ds_config", ROOT / "ds_configs/zero2.json", "--ranks=4", "--memory=2")
    assert command("plan", *RUN, *arguments, "--device=cuda", "train.steps=70", "eval.rows=64") == 0
    out = capsys.readouterr().out
    for part in (
        "default recipe demo.toml",
        "command line 'train.steps=70'",
        "Parameters",
        "padding, of the places in rows",
        "warm-up is over",
        "one more while it is written",
        "2, chosen",
        "fit: stage 0, 1, 2, 3.",
        "has not been tried on one",
    ):
        assert part in " ".join(out.split()), part


def test_every_key_has_its_origin(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ds_config = tmp_path / "ds.json"
    ds_config.write_text(json.dumps({"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 1}}))
    settings = planned(capsys, *RUN, "--ds_config", ds_config, "seed=7")["settings"]
    assert settings["seed"] == {"value": 7, "origin": "command line 'seed=7'"}
    assert settings["optimizer.beta1"] == {"value": 0.9, "origin": "default"}
    assert settings["data.seq_len"] == {"value": 48, "origin": "default recipe demo.toml"}
    origin = f"ds_config {ds_config} (train_micro_batch_size_per_gpu)"
    assert settings["train.micro_batch"] == {"value": 4, "origin": origin}
    assert settings["ds_config zero_optimization.stage"]["value"] == 1


def test_the_store_stands_in_the_table_with_who_said_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of command line and recipe the former counts; without either it is the demo store."""
    model, said = "model.preset=bert-tiny", f"data.store={STORE}"
    by_option = {"value": str(STORE), "origin": "command line --data"}
    assert planned(capsys, *RUN)["settings"]["data.store"] == by_option
    assert planned(capsys, *RUN, "data.store=nowhere")["settings"]["data.store"] == by_option
    by_recipe = {"value": str(STORE), "origin": f"command line '{said}'"}
    assert planned(capsys, model, said)["settings"]["data.store"] == by_recipe
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo-store").symlink_to(STORE)
    monkeypatch.chdir(tmp_path)
    demo = {"value": "runs/demo-store", "origin": "the demo store, as none is named"}
    assert planned(capsys, model)["settings"]["data.store"] == demo


def test_it_takes_the_arguments_of_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A run of two ranks lies there, of four rows a step: on one rank it would keep them, and anew it would not."""
    saved = Path(shutil.copytree(OLD, tmp_path / "run" / "checkpoints" / OLD.name))
    manifest = json.loads((saved / "manifest.json").read_text())
    said = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1}
    manifest["state"]["run_config"]["ds_config"] |= said
    (saved / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "ds.json").write_text(json.dumps(said))
    typed = (
        *RUN,
        "--ds_config",
        tmp_path / "ds.json",
        "--output",
        tmp_path / "run",
        "--backend=fsdp",
        "--ranks=1",
    )
    cuts = [planned(capsys, *typed, *more)["engine"] for more in ((), ("--resume=never",))]
    assert [(cut["micro_batch"], cut["accumulation"]) for cut in cuts] == [(2, 2), (2, 1)]
    assert command("plan", *typed, "--resume", saved, "--ranx") == 2
    assert "unrecognized arguments: --ranx; `python -m pretrain plan --help`" in capsys.readouterr().err


def test_a_job_of_a_thousand_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(
        capsys,
        *("--data", STORE, "--recipe", ROOT / "launch/recipes/bert-large-phase1.toml", "--ranks=1024"),
        *("--ds_config", ROOT / "ds_configs/zero3.json", "--backend=fsdp", "--memory=80", "--nodes=128"),
        *("model.preset=bert-tiny", "train.micro_batch=16"),
    )
    assert found["engine"] == {
        "backend": "fsdp",
        "stage": 3,
        "device": "cuda",
        "ranks": 1024,
        "nodes": 128,
        "precision": "bf16",
        "micro_batch": 16,
        "accumulation": 4,
    }
    stages = found["memory"]["stages"]
    assert [each["peak_bytes"] for each in stages] == sorted((s["peak_bytes"] for s in stages), reverse=True)
    assert all(each["fits"] for each in stages) and [each["chosen"] for each in stages].index(True) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [
        Cell("deepspeed", 2, "bf16", "none"),
        pytest.param(
            Cell("fsdp", 3, "fp32", "full"), marks=pytest.mark.in_full("one engine is enough of a sample")
        ),
    ],
    ids=str,
)
def test_a_real_run_is_as_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str], cell: Cell) -> None:
    """Its peak within a tenth; the bytes of its files, and the names of its samples, exactly."""
    store = plan_memory.write_store(tmp_path / "store")
    model = plan_memory.write_model(tmp_path / "model.json", width=512, layers=4)
    typed = [*plan_memory.run_arguments(cell, store, model, tmp_path / "cell"), "log.samples=true"]
    assert command("plan", "--json", "--device=cpu", "--ranks=2", *typed) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    measured = max(plan_memory.measured_peaks(typed, tmp_path / "cell"))
    (chosen,) = (each for each in found["memory"]["stages"] if each["chosen"])
    assert chosen["peak_bytes"] == pytest.approx(measured, rel=0.1)
    files = sorted((tmp_path / f"cell/run/checkpoints/step-{plan_memory.NUM_STEPS:08}").glob("*.safetensors"))
    sizes = [_data_bytes(path) for path in files]
    figures = found["checkpoints"]
    assert len(files) == figures["files"] == 2
    # ZeRO's flat run is cut at a multiple of a few elements.
    assert sizes[0] == pytest.approx(figures["rank_bytes"], rel=1e-4)
    assert sum(sizes) == figures["whole_bytes"]
    steps = [json.loads(line) for line in (tmp_path / "cell/run/samples.jsonl").read_text().splitlines()]
    for step in (steps[0], steps[-1]):
        assert command("plan", *typed, "--ranks=2", "--samples", str(step["step"])) == 0
        assert capsys.readouterr().out.splitlines() == step["samples"]
    metrics = [json.loads(line) for line in (tmp_path / "cell/run/metrics.jsonl").read_text().splitlines()]
    rates = {each["step"]: each["lr"] for each in metrics}
    assert len(rates) == plan_memory.NUM_STEPS and len(found["learning_rate"]) > 2
    for each in found["learning_rate"]:
        assert rates[each["step"]] == pytest.approx(each["lr"])


def _data_bytes(path: Path) -> int:
    """Of a safetensors file without its header."""
    with path.open("rb") as file:
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--ranks=0",), 2, "--ranks is 0: give 1 or more."),
        (("--ranks=2", "--nodes=3"), 2, "--nodes is 3 but --ranks 2"),
        (("--memory=-1",), 2, "--memory is -1: give a number above 0."),
        (("--tokens-per-second=nan",), 2, "--tokens-per-second is nan"),
        (("--samples=0",), 2, "--samples is 0"),
        (("--samples=5", "train.steps=4"), 2, "--samples is 5, but the run has 4 steps"),
        (("--run=nowhere",), 2, "--run nowhere has no metrics.jsonl"),
        (("--run=nowhere", "--tokens-per-second=1"), 2, "not allowed with argument"),
        (("--gpus=0",), 2, "--gpus is 0: give 1 or more."),
        (("--gpus=8", "--ranks=4"), 2, "--gpus is 8 and --ranks 4: every GPU is a rank"),
        (("--gpus=8", "--device=cpu"), 2, "--gpus asks for GPUs and --device for cpu"),
        (("--gpus=8",), 2, "--gpus needs to know how fast one computes: give log.peak_tflops=TFLOPS"),
        (
            ("--gpus=8", "--mfu=0.99", "log.peak_tflops=312"),
            2,
            "take their part: give a lower --mfu (unsaid,",
        ),
        (("--gpus=8", "--mfu=0.4"), 2, "--mfu is a share of the GPU's peak: give that too"),
        (("--gpus=8", "--mfu=40", "log.peak_tflops=312"), 2, "--mfu is 40: give a share"),
        (("--gpus=8", "--mfu=0.4", "--tokens-per-second=1"), 2, "not allowed with argument"),
        (("--gpus=8", "--bandwidth=0", "log.peak_tflops=312"), 2, "--bandwidth is 0: give a number above 0."),
        (
            ("--gpus=8", "--latency=inf", "log.peak_tflops=312"),
            2,
            "--latency is inf: give 0 or a number above",
        ),
        (("--seconds=3",), 2, "--seconds is of --tune: give that too."),
        (("--gpus=8", "--tokens-per-second=1e6"), 2, "is the rate of some number of GPUs: say it by"),
        (("--measured-ranks=1",), 2, "--measured-ranks is of the GPUs of --gpus"),
        (("--gpus=8", "--nvlink-bandwidth=-1", "log.peak_tflops=312"), 2, "--nvlink-bandwidth is -1: give"),
        (("--memory-bandwidth=2039",), 2, "--memory-bandwidth is of the GPUs of --gpus"),
        (("--disk-bandwidth=3",), 2, "--disk-bandwidth is of the GPUs of --gpus: give --gpus N too."),
        (
            ("--gpus=8", "--tokens-per-second=1e30", "--measured-ranks=8"),
            2,
            "faster than exchanges and optimizer alone would be",
        ),
        (
            ("--gpus=8", "--tokens-per-second=1e6", "--measured-ranks=1", "log.peak_tflops=0.001"),
            2,
            "its peak of 0.001, since exchanges and optimizer take their part: correct the rate, or",
        ),
        (
            ("--gpus=8", "--nodes=9", "log.peak_tflops=312"),
            2,
            "--gpus is 8, which is not as many on each of 9",
        ),
        (("--gpus=9", "log.peak_tflops=312"), 2, "--gpus is 9, which is not as many on each of 2 nodes"),
        (("--gpus=8", "--nodes=0", "log.peak_tflops=312"), 2, "--nodes is 0: give 1 or more."),
        (("--memory=1e308",), 2, "--memory is 1e+308"),
        (
            ("--gpus=8", "--tokens-per-second=1e6", "--measured-ranks=7"),
            2,
            "on 7 rank(s) (--tokens-per-second) cannot be modelled: ",
        ),
        (("--ranks=3",), 2, "train.global_batch of 64 rows does not divide over 3 ranks"),
        (("train.stepz=3",), 2, "train.stepz"),
        (("--backend=megatron",), 2, "invalid choice: 'megatron'"),
        (("--data=nowhere",), 2, "There is no token store at nowhere"),
        (("train.steps=3", "--ranks=2", "--ranx"), 2, "unrecognized arguments: --ranx"),
    ],
)
def test_bad_input_gets_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, part: str
) -> None:
    store = () if any(each.startswith("--data") for each in arguments) else ("--data", STORE)
    assert command("plan", *store, *arguments) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert part in captured.err and captured.out == ""


GPUS = ("--backend=fsdp", "log.peak_tflops=312", "train.global_batch=2048", "train.micro_batch=16")


def test_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    """They are ranks on CUDA, 8 to a node; each stage, and each power of two that the batch divides over."""
    typed = (*RUN, "--gpus=32", "--ds_config", ROOT / "ds_configs/zero2.json", *GPUS, "train.steps=100")
    found = planned(capsys, *typed, "--mfu=0.5")
    engine, scale = found["engine"], found["scale"]
    assert [engine[name] for name in ("ranks", "nodes", "device")] == [32, 4, "cuda"]
    assert scale["worlds"][0]["mfu"] == pytest.approx(0.5)
    assert [row["step"]["stage"] for row in scale["stages"]] == [0, 1, 2, 3]
    assert [row["step"]["ranks"] for row in scale["worlds"]] == [1, 2, 4, 8, 16, 32]
    alone, last = scale["worlds"][0], scale["worlds"][-1]
    assert (alone["efficiency"], alone["step"]["exposed"]) == (1, 0)
    assert last == scale["stages"][2]
    ratio = last["tokens_per_second"] / alone["tokens_per_second"]
    assert last["efficiency"] == pytest.approx(ratio / 32)
    step, (batch,) = last["step"], found["course"]["batches"]
    parts = ("compute", "optimizer", "exposed")
    assert step["seconds"] == pytest.approx(sum(step[name] for name in parts))
    assert last["mfu"] == pytest.approx(batch["flops"] / step["seconds"] / (32 * 312e12))
    padded = batch["flops"] * batch["places"] / batch["tokens"]
    assert step["compute"] == pytest.approx(padded / 32 / scale["gpu"]["flops_per_second"])
    assert found["time"]["rate"]["tokens_per_second"] == last["tokens_per_second"]
    assert last["hours"] * 3600 > found["time"]["seconds"]
    origins = {each["key"]: each["origin"] for each in scale["assumptions"]}
    assert origins["MFU of whole steps on 1 GPU(s), nothing recomputed"] == "--mfu"
    assert origins["bandwidth between nodes, one GPU's share"].startswith("default of --bandwidth")


def test_the_rule_decides_what_the_optimizer_moves(capsys: pytest.CaptureFixture[str]) -> None:
    """44 bytes of each of its weights by LAMB, 32 by AdamW, at what --memory-bandwidth says."""
    typed = (*RUN, "--gpus=8", *GPUS, "--memory-bandwidth=1000")
    for name, num_bytes in (("lamb", 44), ("adamw", 32)):
        found = planned(capsys, *typed, f"optimizer.name={name}")
        expected = num_bytes * found["parameters"]["trained"] / 1000e9
        assert found["scale"]["worlds"][0]["step"]["optimizer"] == pytest.approx(expected)


def test_gpus_in_tables(capsys: pytest.CaptureFixture[str]) -> None:
    typed = (*RUN, "--gpus=16", "--ds_config", ROOT / "ds_configs/zero3.json", *GPUS, "--bandwidth=12.5")
    assert command("plan", *typed) == 0
    out = " ".join(capsys.readouterr().out.split())
    for part in (
        "MFU of 40% of 312 TFLOP/s on 1 rank(s)",
        "12.5 GB/s │ --bandwidth",
        "A step on 16 GPU(s) on 2 node(s), modelled, by stage",
        "3, chosen",
        "modelled for 16 GPUs",
        "waiting for the slowest rank",
    ):
        assert part in out, part


def test_gpus_without_latency_in_groups(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of more ranks than a row has GPUs they are all of these."""
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({"zero_optimization": {"stage": 3, "mics_shard_size": 8}}))
    typed = (*RUN, "--gpus=16", "--ds_config", groups, *GPUS)
    assert command("plan", *typed, "--latency=0") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "0 us │ --latency" in out and "are taken as one group of them all" in out
    waited = [planned(capsys, *typed, f"--latency={each}") for each in (0, 9.6)]
    first, second = (found["scale"]["worlds"][-1]["step"]["seconds"] for found in waited)
    assert first < second


def test_activation_checkpointing_costs_a_forward_pass_of_its_layers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """bert-tiny has two layers: of every second one is computed again."""
    typed = (*RUN, "--gpus=8", *GPUS, "train.steps=100")
    found = {
        choice: planned(capsys, *typed, f"train.activation_checkpointing={choice}")
        for choice in ("none", 2, "full")
    }
    compute = [each["scale"]["worlds"][-1]["step"]["compute"] for each in found.values()]
    (batch,) = found["none"]["course"]["batches"]
    third = batch["layer_flops"] / batch["flops"] / 3
    assert [each / compute[0] for each in compute] == pytest.approx([1, 1 + third / 2, 1 + third])


def test_a_rate_of_fewer_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    """Of as many as are planned it comes back; of one it is scaled."""
    typed = (*RUN, "--gpus=16", *GPUS, "--tokens-per-second=1e6")
    same = planned(capsys, *typed, "--measured-ranks=16")["time"]["rate"]["tokens_per_second"]
    assert same == pytest.approx(1e6)
    scaled = planned(capsys, *typed, "--measured-ranks=1")["scale"]
    assert scaled["worlds"][0]["tokens_per_second"] == pytest.approx(1e6)
    assert 1e6 < scaled["worlds"][-1]["tokens_per_second"] < 16e6


def test_mfu_is_that_of_whole_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """What is typed stands in the row of as many GPUs, whatever they exchange; padding makes a GPU compute more."""
    typed = (*RUN, "--gpus=16", *GPUS, "--mfu=0.1")
    alone = planned(capsys, *typed)["scale"]
    several = planned(capsys, *typed, "--measured-ranks=2")["scale"]
    assert alone["worlds"][0]["mfu"] == pytest.approx(0.1)
    assert several["worlds"][1]["mfu"] == pytest.approx(0.1) and several["worlds"][1]["step"]["ranks"] == 2
    assert several["gpu"]["flops_per_second"] > alone["gpu"]["flops_per_second"] > 0.1 * 312e12


def test_a_node_has_as_many_gpus_as_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    typed = (*RUN, "--gpus=4", *GPUS)
    nodes = {
        said: planned(capsys, *typed, *said, "--mfu=0.01")["scale"]["assumptions"][0]["value"]
        for said in ((), ("--nodes=1",), ("--nodes=2",))
    }
    assert list(nodes.values()) == [8, 4, 2]


def _run_of(folder: Path, overrides: tuple[str, ...], **run: object) -> Path:
    """A run that took 1e6 tokens a second, as its config.json says."""
    options = {"recipe_path": None, "default_recipe": ROOT / "launch/recipes/demo.toml", "world_size": None}
    ds_config = ROOT / "ds_configs/zero3.json"
    config = resolve(**options, ds_config_path=ds_config, overrides=overrides)  # type: ignore[arg-type]
    about = {"backend": "deepspeed", "stage": 3, "precision": "bf16"} | run
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.as_dict() | {"run": about}))
    (folder / "metrics.jsonl").write_text('{"tokens_per_second": 1e6}\n')
    return folder


def test_a_measured_run_is_what_its_own_config_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its exchanges are of its own stage, batch and micro-batch, and are taken off its own step: planned as it was, by
    the pace that follows, it is as fast as it was, and another plan has the same pace."""
    its_own = ("model.preset=bert-mini", "train.global_batch=512", "train.micro_batch=8")
    run = _run_of(tmp_path / "run", its_own, ranks=16, micro_batch=8)
    typed = (*RUN, "--gpus=4", "--ds_config", ROOT / "ds_configs/zero2.json", *GPUS, "--run")
    found = planned(capsys, *typed, run)["scale"]
    again = (*RUN[:2], "--gpus=16", "--ds_config", ROOT / "ds_configs/zero3.json", *its_own, "--run", run)
    same = planned(capsys, *again, "--backend=deepspeed")
    assert same["time"]["rate"]["tokens_per_second"] == pytest.approx(1e6)
    assert found["gpu"]["flops_per_second"] == same["scale"]["gpu"]["flops_per_second"]
    full = _run_of(
        tmp_path / "full", (*its_own, "train.activation_checkpointing=full"), ranks=16, micro_batch=8
    )
    faster = planned(capsys, *typed, full)["scale"]
    assert faster["gpu"]["flops_per_second"] > found["gpu"]["flops_per_second"]


def test_a_measured_run_of_another_kind(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    typed = ("plan", *RUN, "--gpus=4", "--ds_config", ROOT / "ds_configs/zero2.json", *GPUS, "--run")
    run = _run_of(tmp_path / "fp32", ("model.preset=bert-mini",), ranks=1, micro_batch=8, precision="fp32")
    assert command(*typed, run) == 2
    assert "computed in fp32 and this run will in bf16" in capsys.readouterr().err
    assert command(*typed, run, "--measured-ranks=2") == 2
    assert "whose config.json says its ranks" in capsys.readouterr().err
    on_cpu = _run_of(tmp_path / "cpu", (), ranks=1, micro_batch=8, device="x86_64")
    assert command(*typed, on_cpu) == 2
    assert "was on a CPU (x86_64), whose pace says nothing of a GPU's" in capsys.readouterr().err
    (run / "config.json").write_text("{}")
    assert command(*typed, run) == 2
    assert "has no config.json that says how it was trained" in capsys.readouterr().err


def test_without_a_store_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("plan") == 2
    assert "python -m data_prep build --demo --output runs/demo-store" in capsys.readouterr().err


def test_overrides_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *RUN, "train.steps=9", "--ranks=2", "data.seq_len=32")
    assert (found["course"]["steps"], found["rows"]["seq_len"]) == (9, 32)
