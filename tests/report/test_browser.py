"""The page in a real browser: nothing in its console, nothing asked of a network, no sideways scrolling on a phone, and
values that can be read off by pointer and by keyboard."""

import base64
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from matplotlib.image import imread

from pretrain.report import write_report
from tests.browser import Page, browser, executable
from tests.report.runs import event, metrics, of_ranks, write_lines, write_run

READ = "document.querySelector('.chart .read').textContent"
POINT = """(() => {
    const box = document.querySelector(".box").getBoundingClientRect();
    const at = {clientX: box.left + box.width / 3, clientY: box.top + 9};
    document.querySelector(".plot").dispatchEvent(new PointerEvent("pointermove", at));
})()"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of unlike length, one with a long name, gaps, and a restart."""
    folder = tmp_path_factory.mktemp("runs")
    bad = {"loss": None, "skipped": True, "skipped_because": "overflow", "loss_scale": 1024.0}
    one = write_run(folder / ("a-rather-long-name-of-a-run-" * 4), 300, {50: bad, 51: bad})
    two = write_run(folder / "<script>alert(1);", 200)
    write_lines(
        one / "events.jsonl",
        iter([event("start", 0), event("end", 40, code=75, said="x" * 300), event("start", 40)]),
    )
    hosts = {"step": 0, "hosts": [["a-rather-long-name-of-a-host-" * 3, 0, 3]]}
    write_lines(one / "ranks.jsonl", iter([hosts, *map(of_ranks, range(10, 301, 10))]))
    write_report([one, two], folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Skips where no browser is installed, and fails there under CI."""
    if executable() is None:
        lacking = "no Chromium is installed (Debian: apt-get install chromium)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(lacking)
    with browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_says_nothing(page: Page, report: Path, width: int, dark: bool) -> None:
    page.requests.clear()
    page.open(report, width, dark)
    assert page.errors == []
    assert page.requests == [report.resolve().as_uri()]
    assert page.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.value("innerWidth") == width
    assert page.value("matchMedia('(prefers-color-scheme: dark)').matches") == dark
    background, ink = (
        page.value(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")
    )
    assert (sum(_channels(background)) < sum(_channels(ink))) == dark


def test_values_are_read_off(page: Page, report: Path) -> None:
    page.open(report, 1280)
    page.value(POINT)
    said = page.value(READ)
    assert said.startswith("step 100:") and f"(raw {metrics(100)['loss']:.4g})" in said
    assert said.count("(raw ") == 2
    _press(page, "ArrowRight", "ArrowRight")
    assert page.value(READ).startswith("step 102:")
    assert page.value("document.querySelector('.plot').getAttribute('aria-valuetext')").startswith(
        "step 102:"
    )
    _press(page, "Home")
    assert page.value(READ).startswith("step 1:")
    page.value("document.getElementById('show-1').click()")
    _press(page, "End")
    assert page.value(READ).startswith("step 300:") and page.value(READ).count("(raw ") == 1
    page.value("document.getElementById('over-tokens').click()")
    shown = (
        "[...document.querySelectorAll('.plot g')].filter((each) => getComputedStyle(each).display != 'none')"
    )
    kinds = page.value(f"[...new Set({shown}.map((each) => each.className.baseVal))].sort().join(' ')")
    assert kinds == "run-0 x-tokens"
    _press(page, "Home", "ArrowRight")
    assert page.value(READ).startswith("1,000 tokens (step 2):")
    assert page.errors == []


@pytest.mark.parametrize("width", [1280, 390])
def test_a_dot_at_the_edge_is_whole(page: Page, tmp_path: Path, width: int) -> None:
    """The only validation is after the last step: as many coloured pixels lie beyond the edge as within."""
    write_report([write_run(tmp_path / "one", 50)], tmp_path / "page.html")
    page.open(tmp_path / "page.html", width)
    # The whole page in one window: a scroll bar that goes with the screenshot would move it.
    window = {"width": width, "height": 9000, "deviceScaleFactor": 1, "mobile": width < 600}
    page.call("Emulation.setDeviceMetricsOverride", **window)
    edge = """(() => {
        const chart = document.querySelector("[data-chart=held-out-mlm-loss]");
        const dot = chart.querySelector(".x-step .points").getBoundingClientRect();
        return [(dot.left + dot.right) / 2 + scrollX, (dot.top + dot.bottom) / 2 + scrollY];
    })()"""
    across, down = page.value(edge)
    clip = {"x": across - 8, "y": down - 8, "width": 16, "height": 16, "scale": 1}
    shot = page.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
    pixels = imread(BytesIO(base64.b64decode(shot)), format="png")
    is_blue = pixels[:, :, 2] - pixels[:, :, 0] > 0.3  # as the first run's line is, and the box's edge is not
    within, beyond = is_blue[:, :8].sum(), is_blue[:, 8:].sum()
    assert within >= 9 and beyond >= 9, (within, beyond)


def _press(page: Page, *keys: str) -> None:
    page.value("document.querySelector('.plot').focus()")
    for key in keys:
        page.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
        page.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)


def _channels(color: str) -> list[int]:
    return [int(each) for each in color[color.index("(") + 1 : -1].split(",")[:3]]


def test_the_browser_s_own_checks_can_fail(page: Page, tmp_path: Path) -> None:
    """An error, a request and an overflow are seen."""
    bad = tmp_path / "bad.html"
    bad.write_text("<body><div style='width:900px'>x</div><img src=gone.png><script>throw 1</script>")
    page.requests.clear()
    page.open(bad, 390)
    assert any("Uncaught" in error for error in page.errors) and len(page.requests) == 2
    page.errors.clear()
    assert not page.value("document.documentElement.scrollWidth <= 390")
