"""The page about runs written by hand: its numbers, its bounds, and that no text of a run becomes part of it."""

import base64
import copy
import hashlib
import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from pretrain.faults.tiny import write_tiny_store
from pretrain.report import write_report
from tests.command.runs import command
from tests.report.reading import Reading, read
from tests.report.runs import CONFIG, event, loss_at, metrics, write_lines, write_run

RUNS, FINAL, DATA = (
    "What the runs are",
    "Final figures; losses in nats",
    "What the steps in metrics.jsonl were fed with",
)
EVIL = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{ 7*7 }}"
MAX_BYTES = 2_000_000


def page_of(tmp_path: Path, *runs: Path) -> Reading:
    write_report(runs, tmp_path / "page.html")
    return read(tmp_path / "page.html")


def test_figures_are_those_of_the_files(tmp_path: Path) -> None:
    lines = [metrics(step) for step in range(1, 301)]
    page = page_of(tmp_path, write_run(tmp_path / "one", 300))
    final, data, about = page.column(FINAL), page.column(DATA), page.column(RUNS)
    losses = [line["loss"] for line in lines]
    lowest = min(losses)
    assert final["lowest training loss"] == f"{lowest:.4g} (step {losses.index(lowest) + 1})"
    assert final["training loss, median of the last steps"] == f"{median(losses[-12:]):.4g}"
    assert final["highest gradient norm"] == "2 (step 1)"
    assert final["held out: unigram entropy"] == "5.5"
    assert final["held out: loss on [MASK]"] == f"{loss_at(300) - 0.5:.4g}"
    assert final["held out: NSP accuracy (lower 95% bound)"] == "0.75 (0.5)"
    assert (final["skipped steps"], final["steps with a figure not finite"]) == ("0", "0")
    assert (data["tokens"], data["samples"], data["rows"]) == ("150,000", "6,000", "4,800")
    assert data["real tokens among all positions"] == f"{150_000 / (4800 * 32):.2%}"
    assert data["epochs seen"] == "3 whole ones, and number 4 in part"
    assert data["selected for MLM"].startswith("15.0%")
    assert about["state"] == "not finished: step 300 of 1,000"
    assert about["training time"] == "1 min 15 s in steps"
    assert (about["parameters"], about["backend"], about["stage"], about["ranks"]) == (
        "30,671",
        "fsdp",
        "2",
        "4",
    )
    assert about["store fingerprint"] == "0123456789abcdef"


def test_what_is_read_off_is_what_the_files_say(tmp_path: Path) -> None:
    page = page_of(tmp_path, write_run(tmp_path / "one", 300))
    charts = page.figures["charts"]
    (loss,) = charts["training-loss"]["series"]
    assert loss["x"]["step"] == list(range(1, 301))
    assert loss["x"]["tokens"] == [500 * step for step in range(1, 301)]
    assert loss["x"]["seconds"] == [0.25 * step for step in range(1, 301)]
    assert loss["low"] == pytest.approx([loss_at(step) for step in range(1, 301)], rel=1e-3)
    assert loss["front"][99] == pytest.approx(median(loss_at(step) for step in range(94, 107)), rel=1e-3)
    (held_out,) = charts["held-out-mask-only-loss"]["series"]
    assert held_out["x"] == {
        "step": [50, 100, 150, 200, 250, 300],
        "tokens": [25_000, 50_000, 75_000, 100_000, 125_000, 150_000],
        "seconds": [12.5, 25, 37.5, 50, 62.5, 75],
    }
    # Nothing to see: a loss scale of 1, a batch that never changes, figures that were not measured.
    assert not {"training-loss-scale", "training-global-batch", "training-noise-scale", "training-mfu"} & set(
        charts
    )


def test_what_a_chart_says_of_a_step_is_what_the_file_says_of_it(tmp_path: Path) -> None:
    """Warm-up and noise: the first and last step are far from the median of their neighbours. One line more than
    points, as every file has that does not end within a line, makes no pairs of them."""
    changed = {step: {"lr": 0.01 * min(step / 6, (401 - step) / 400)} for step in range(1, 401)}
    text = page_of(tmp_path, write_run(tmp_path / "one", 400, changed)).text
    assert "one: from 0.001667 at step 1 to 2.5e-05 at step 400; lowest 2.5e-05 at step 400;" in text
    assert f"one: from {loss_at(1):.4g} at step 1 to {loss_at(400):.4g} at step 400; lowest" in text


def test_a_curve_of_one_value_is_said_once(tmp_path: Path) -> None:
    text = page_of(tmp_path, write_run(tmp_path / "one", 60)).text
    assert "one: 0.25 at step 50\n" in text  # the accuracy, which has no level beside it
    assert f"one: {loss_at(50) - 0.5:.4g} at step 50; unigram entropy 5.5\n" in text


def test_a_short_run_loses_nothing_beside_others(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, 300) for name in ("one", "two", "three", "four")]
    series = page_of(tmp_path, *runs).figures["charts"]["training-loss"]["series"]
    assert [each["x"]["step"] for each in series] == [list(range(1, 301))] * 4


def test_lines_are_drawn_where_the_numbers_are(tmp_path: Path) -> None:
    page = page_of(tmp_path, write_run(tmp_path / "one", 300))
    chart = page.figures["charts"]["training-lr"]
    drawn = _paths(tmp_path / "page.html", "Learning rate", "line")
    assert len(drawn) == 3  # over steps, tokens and seconds
    points = _points(drawn[0])
    assert len(points) == 300
    for step, (across, up) in enumerate(points, start=1):
        assert across == pytest.approx(1000 * step / 300, abs=0.6)
        share = (0.01 * (1 - step / 1e7) - chart["low"]) / (chart["high"] - chart["low"])
        assert up == pytest.approx(400 * (1 - share), abs=0.6)


def test_runs_beside_each_other(tmp_path: Path) -> None:
    other: dict[str, Any] = copy.deepcopy(CONFIG)
    other["recipe"]["optimizer"] = {"name": "adamw", "lr": 0.01, "beta1": 0.9}
    other["origins"]["seed"] = "somebody"
    one = write_run(tmp_path / "a" / "run", 100)
    two = write_run(tmp_path / "b" / "run", 150, config=other)
    page = page_of(tmp_path, one, two)
    assert page.tables[RUNS][0] == ["property", "a/run", "b/run"]
    assert page.tables["Keys of config.json that differ"][1:] == [
        ["recipe.optimizer.name", "lamb", "adamw"],
        ["recipe.optimizer.beta1", "-", "0.9"],
    ]
    assert page.column(FINAL, 1)["last step"] == "100" and page.column(FINAL, 2)["last step"] == "150"
    assert [each["run"] for each in page.figures["charts"]["training-loss"]["series"]] == [0, 1]
    same = page_of(tmp_path, one, write_run(tmp_path / "c", 10))
    assert "The configs are equal in every key." in same.text


def test_what_is_not_finite_is_a_gap_a_mark_and_a_word(tmp_path: Path) -> None:
    bad = {"loss": None, "mlm_loss": None, "grad_norm": None, "skipped": True, "skipped_because": "overflow"}
    changed: dict[int, dict[str, Any]] = {
        50: bad,
        51: bad,
        80: {"skipped": True, "skipped_because": "spike"},
        90: {"loss": None},
    }
    changed |= {step: {"loss_scale": 65536.0} for step in range(1, 50)}
    page = page_of(tmp_path, write_run(tmp_path / "one", 100, changed))
    final = page.column(FINAL)
    assert final["skipped steps"] == "3 (2 overflow, 1 spike)"
    assert final["steps with a figure not finite"] == "3"
    front = page.figures["charts"]["training-loss"]["series"][0]["front"]
    assert [step for step, value in enumerate(front, start=1) if value is None] == [50, 51, 90]
    line = _paths(tmp_path / "page.html", "Training loss", "line")[0]
    assert line.count("M") == 3
    assert _paths(tmp_path / "page.html", "Training loss", "missing")[0].count("M") == 3
    assert "not finite at step 50, step 51, step 90" in page.text
    assert "training-loss-scale" in page.figures["charts"]
    events = page.tables["one"][1:]
    assert [row[:3] for row in events] == [
        ["50", "│ skipped", "steps 50 to 51 skipped: overflow"],
        ["80", "│ skipped", "step 80 skipped: spike"],
        ["90", "✗ not finite", "step 90 not finite: loss"],
    ]


def test_events_in_their_order(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", 100)
    about = {
        "host": "node1",
        "ranks": 4,
        "backend": "fsdp",
        "stage": 2,
        "precision": "bf16",
        "versions": {"torch": "2.13"},
    }
    lines = [
        event("start", 0, **about),
        event("end", 40, code=75, said="Stopped by SIGTERM after step 40, saved; start again to continue."),
        event("start", 40, **about),
        event("start", 40, **about),
        event("fault", 60, code=75, said="Rank 3 on node2 died."),
        event("start", 60, **about),
        event("end", 100, code=1, said="No space left on device."),
    ]
    write_lines(run / "events.jsonl", iter(lines))
    (run / "fault.json").write_text(
        json.dumps({"rank": 2, "code": 75, "sentence": "Rank 2 stands.", "is_fault": True})
    )
    report = {
        "findings": [{"rank": 1, "name": "encoder.layer.3"}],
        "master_weights_not_finite": [],
        "came_again": True,
    }
    (run / "not-finite-step-00000100.json").write_text(json.dumps(report))
    for step in (50, 75, 100):
        (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (run / "checkpoints" / "latest").write_text("step-00000100\n")
    (run / "checkpoints" / "best").write_text("step-00000075\n")
    events = page_of(tmp_path, run).tables["one"][1:]
    assert [(row[0], row[1].split(" ", 1)[1]) for row in events] == [
        ("0", "start"),
        ("40", "stop"),
        ("40", "restart"),
        ("40", "failure"),
        ("40", "restart"),
        ("50", "checkpoint"),
        ("60", "fault"),
        ("60", "restart"),
        ("75", "best checkpoint"),
        ("100", "failure"),
        ("100", "fault"),
        ("100", "report"),
        ("100", "checkpoint"),
    ]
    said = [row[2] for row in events]
    assert said[0] == "Started on node1 (4 rank(s), fsdp stage 2, bf16) with torch 2.13"
    assert "ended without a word" in said[3] and said[6] == "Rank 3 on node2 died."
    assert said[10:12] == ["Rank 2 stands.", said[11]] and "encoder.layer.3" in said[11]
    assert said[-1] == "Checkpoint kept: step-00000100, latest"
    assert events[0][3] == "2026-01-02 03:04:05"


def test_trust_ratios_come_from_tensorboard(tmp_path: Path) -> None:
    config: dict[str, Any] = copy.deepcopy(CONFIG)
    config["recipe"]["log"]["parameters_every"] = 10
    run = write_run(tmp_path / "one", 100, config=config)
    with SummaryWriter(run / "tensorboard") as board:
        for step in range(10, 101, 10):
            for name, factor in (("a", 0.5), ("b", 1.0), ("c", 3.0)):
                board.add_scalar(f"trust_ratio/{name}", factor * step, step)
    (series,) = page_of(tmp_path, run).figures["charts"]["ratios-trust-ratio"]["series"]
    assert series["x"]["step"] == list(range(10, 101, 10))
    assert series["x"]["tokens"] == [500 * step for step in range(10, 101, 10)]
    assert series["front"] == pytest.approx([1.5 * step for step in range(10, 101, 10)])
    assert series["low"] == pytest.approx([0.5 * step for step in range(10, 101, 10)])
    assert series["high"] == pytest.approx([3.0 * step for step in range(10, 101, 10)])
    for path in (run / "tensorboard").iterdir():
        path.write_bytes(b"\xff" * 1000)
    assert "ratios-trust-ratio" not in page_of(tmp_path, run).figures["charts"]


def test_the_store_says_how_often_its_text_was_seen(tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "store", 40)
    tokens = store.split("train").num_tokens
    config = CONFIG | {"store": str(tmp_path / "store"), "store_fingerprint": store.fingerprint}
    row = "the same over the stores' training text"
    found = page_of(tmp_path, write_run(tmp_path / "one", 100, config=config)).column(DATA)[row]
    assert found == f"{50_000 / tokens:.3g} times its {tokens:,} tokens"
    other = page_of(
        tmp_path, write_run(tmp_path / "two", 100, config=config | {"store_fingerprint": "0" * 64})
    )
    assert other.column(DATA)[row] == "not known: no store there"


def test_no_text_of_a_run_becomes_a_part_of_the_page(tmp_path: Path) -> None:
    config: dict[str, Any] = copy.deepcopy(CONFIG)
    config["recipe"]["optimizer"]["name"] = EVIL
    config["run"] |= {"backend": EVIL, "versions": {EVIL: EVIL}}
    config[EVIL] = {"store": EVIL}
    config["store"] = EVIL
    plain = write_run(tmp_path / "plain", 60)
    evil = write_run(
        tmp_path / EVIL.replace("/", "\u2215"), 60, {30: {"skipped": True, "skipped_because": EVIL}}, config
    )
    write_lines(
        evil / "events.jsonl",
        iter([event("start", 0, host=EVIL), event("end", 60, code=1, said=EVIL, date=EVIL)]),
    )
    (evil / "fault.json").write_text(json.dumps({"rank": 0, "code": 1, "sentence": EVIL, "is_fault": True}))
    (evil / "not-finite-step-00000060.json").write_text(json.dumps({"findings": [{EVIL: EVIL}]}))
    write_lines(
        evil / "eval.jsonl", iter([{"step": 50, "mlm_loss": 4.0, "stores": {EVIL: {"mask_only_loss": 4.0}}}])
    )
    page = page_of(tmp_path, plain, evil)
    honest = page_of(tmp_path, plain, write_run(tmp_path / "other", 60, config=config | {"store": "x"}))
    kinds = {name for name, _ in page.elements}
    assert kinds <= {name for name, _ in honest.elements} | {"div"} and "img" not in kinds
    assert len(page.scripts) == 2
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert EVIL in page.text and "49" not in page.column(RUNS, 2)["optimizer"]
    assert page.figures["names"] == ["plain", evil.name]


def test_nothing_comes_from_elsewhere_and_only_the_page_s_own_script_may_run(tmp_path: Path) -> None:
    page = page_of(tmp_path, write_run(tmp_path / "one", 60))
    loads = [
        (name, key, value)
        for name, keys in page.elements
        for key, value in keys.items()
        if key in ("src", "href")
    ]
    assert all(name == "a" and value.startswith("#") for name, _, value in loads)
    html = (tmp_path / "page.html").read_text()
    assert re.search(r"https?://|url\(|@import", html) is None
    policy = next(
        keys["content"] for name, keys in page.elements if keys.get("http-equiv") == "Content-Security-Policy"
    )
    checksum = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{checksum}'"


def test_the_page_has_an_order_for_those_who_hear_it(tmp_path: Path) -> None:
    page = page_of(tmp_path, write_run(tmp_path / "one", 100), write_run(tmp_path / "two", 100))
    assert page.headings[:5] == ["one beside two", "Runs", "Results", "Curves", "Training loss"]
    named = {keys["id"] for _, keys in page.elements if "id" in keys}
    used = [keys["aria-labelledby"] for _, keys in page.elements if "aria-labelledby" in keys]
    used += [keys["href"].removeprefix("#") for name, keys in page.elements if name == "a"]
    assert set(used) <= named
    assert {keys.get("scope") for name, keys in page.elements if name == "th"} == {"col", "row"}
    # Each chart in words, for each run.
    charts = page.figures["charts"]
    assert page.text.count(": from ") == sum(len(chart["series"]) for chart in charts.values())
    assert f"one: from {loss_at(1):.4g} at step 1 to {loss_at(100):.4g} at step 100; lowest" in page.text


def test_a_long_run_and_many_runs_make_a_page_of_bounded_size(tmp_path: Path, in_full: bool) -> None:
    steps = 1_000_000 if in_full else 20_000
    bad = {"loss": None, "grad_norm": None, "skipped": True, "skipped_because": "overflow", "loss_scale": 2.0}
    changed = {step: bad for step in range(7, steps, 41)}
    run = write_run(tmp_path / "long", steps, changed, eval_every=10)
    assert write_report([run], tmp_path / "page.html") < MAX_BYTES
    page = read(tmp_path / "page.html")
    (loss,) = page.figures["charts"]["training-loss"]["series"]
    assert len(loss["front"]) <= 400 and loss["x"]["step"][-1] == steps
    rates = [metrics(step)["lr"] for step in (1, steps)]
    assert f"from {rates[0]:.4g} at step 1 to {rates[1]:.4g} at step {steps:,}" in page.text
    assert f"from {loss_at(1):.4g} at step 1 to {loss_at(steps):.4g} at step {steps:,}" in page.text
    finite = [loss_at(step) for step in range(1, steps + 1) if step not in changed]
    assert min(loss["low"]) == pytest.approx(min(finite), rel=1e-3)
    assert max(loss["high"]) == pytest.approx(max(finite), rel=1e-3)
    assert page.column(FINAL)["skipped steps"] == f"{len(changed):,} (overflow)"
    assert len(page.tables["long"]) < 500
    marks = [keys["style"] for _, keys in page.elements if keys.get("class") == "skipped"]
    assert marks[0] == "left:0.0%" and marks[-1] == "left:100.0%" and len(marks) == 101
    shorter = write_run(tmp_path / "shorter", 5000, changed, eval_every=10)
    names = [tmp_path / f"run-{number}" for number in range(8)]
    for each in names:
        each.symlink_to(shorter)
    assert write_report(names, tmp_path / "page.html") < MAX_BYTES


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "There is no step in metrics.jsonl yet"),
        ('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', None),
        ('{"step": 1, "loss": 2.0}\n{"step": 2, \n\n', "1 line is damaged or out of order in metrics.jsonl"),
        ('{"step": 1, "loss": NaN}\n{"step": 2}\n[3]\n', "2 lines are damaged"),
        ('{"step": 5}\n{"step": 4}\n{"step": "6"}\n{"step": -1}\n', "3 lines are damaged"),
        ('{"step": 7, "loss": 2.0, "cursor": "x", "tokens": [], "seconds": {}}\n', "begins with step 7"),
        ("\x00\xff" * 100 + "\n" + "[" * 100_000 + "\n", "2 lines are damaged"),
        ('{"step": 1, "a": "' + "x" * (1 << 21) + '"}\n{"step": 2, "loss": 1.0}\n', "1 line is damaged"),
        ('{"step": ' + "9" * 5000 + "}\n", "1 line is damaged"),
        ('{"step": 1, "loss": 1e308, "tokens": 1e308, "lr": -1e308, "seconds": 1e-320}\n', None),
    ],
)
def test_damaged_metrics_are_said_and_left_out(tmp_path: Path, content: str, said: str | None) -> None:
    run = write_run(tmp_path / "one", 0)
    (run / "metrics.jsonl").write_text(content, encoding="latin-1")
    text = page_of(tmp_path, run).text
    assert said is None or said in text
    assert ("damaged or out of order" in text) == (said is not None and "damaged" in said)


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "eval.jsonl", "events.jsonl", "finished", "fault.json"]
)
def test_a_file_that_is_none_is_said(tmp_path: Path, name: str) -> None:
    """A damaged file, a folder, or a link to somewhere else in its place."""
    run = write_run(tmp_path / "one", 20)
    (run / "model").mkdir()
    path = run / name
    path.unlink(missing_ok=True)
    path.write_bytes(b"\xff\x00{" * 10)
    assert page_of(tmp_path, run).headings[0] == "one"
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert "root:" not in page_of(tmp_path, run).text
    path.unlink()
    path.mkdir()
    assert page_of(tmp_path, run).headings[0] == "one"


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = tmp_path / "one"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(CONFIG))
    page = page_of(tmp_path, run)
    assert page.column(RUNS)["state"] == "no step done yet"
    assert (
        "There is no step in metrics.jsonl yet" in page.text and "There is nothing to draw yet." in page.text
    )


def test_without_an_output_the_page_lies_where_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one run in its folder, of several in the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        write_run(tmp_path / name, 20)
    assert command("report", "one") == 0
    assert capsys.readouterr().out.startswith("one/report.html: 1 run, ")
    assert command("report", "one", "two") == 0
    assert capsys.readouterr().out.startswith("report.html: 2 runs, ")
    assert read(tmp_path / "one" / "report.html").headings[0] == "one"
    assert read(tmp_path / "report.html").headings[0] == "one beside two"
    assert command("report", "nowhere") == 2
    assert capsys.readouterr().err.startswith("error: nowhere is not a folder")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, output = write_run(tmp_path / "one", 20), tmp_path / "page.html"
    assert command("report", run, "--output", output) == 0
    assert capsys.readouterr().out == f"{output}: 1 run, {output.stat().st_size / 1e3:,.0f} kB\n"
    assert command("report", run, run, "--output", output) == 0  # an earlier page is replaced
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "page.html"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("nowhere", "--output", "page.html"), "nowhere is not a folder"),
        (("empty", "--output", "page.html"), "empty holds no run"),
        (("one", "--output", "one/config.json"), "is no earlier report"),
        (("one", "--output", "empty"), "is no earlier report"),
        (("one", "--output", "gone/page.html"), "gone is not a folder"),
        (("one",) * 9 + ("--output", "page.html"), "9 runs are too many"),
    ],
)
def test_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = (write_run(tmp_path / "one", 2) / "config.json").read_text()
    (tmp_path / "empty").mkdir()
    assert command("report", *arguments) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1
    assert (tmp_path / "one" / "config.json").read_text() == config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "one"]


def _paths(page: Path, title: str, kind: str) -> list[str]:
    """Path data of a kind in the chart of this title."""
    html = page.read_text(encoding="utf-8")
    chart = html.split(f"<h3>{title}</h3>")[1].split("</figure>")[0]
    drawing = chart.split("<output")[0]
    return re.findall(rf'<path class="{kind}" d="([^"]*)"', drawing)


def _points(path: str) -> list[tuple[float, float]]:
    """Of one line by differences."""
    start, _, steps = path.partition("l")
    x, y = map(float, start.removeprefix("M").split())
    numbers = [float(each) for each in steps.split()]
    found = [(x, y)]
    for across, up in zip(numbers[::2], numbers[1::2], strict=True):
        x, y = x + across, y + up
        found.append((x, y))
    return found
