"""Triton's kernels on the CPU, by Triton's interpreter; `test_triton_passes.py` starts pytest on this file.

The interpreter runs a kernel program by program, in numpy, over the very memory that addresses name. It must be asked
for before Triton is imported, so that this needs a process of its own. Chunks and blocks are made so small that a
parameter has several of them, whole ones and rests.
"""

from typing import get_args

import pytest
import torch

from pretrain.kernels import device_table, triton_norms
from pretrain.kernels.kind import KernelKind
from pretrain.optim import AdamWOptions, LambOptions, Rule
from pretrain.optim.lamb import LambVariant
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice, Sliced
from tests.optim.cuts import PARAMETERS, Bound, bind, cut_layout, draw, force_kernels, whole_layout
from tests.optim.test_lamb import JUDGES, OPTIONS
from tests.optim.test_lamb import trained as distance_from_judge

LR, STEPS, MAX_GRAD_NORM = 0.02, 4, 30.0
RULES: dict[str, Rule] = {name: LambOptions.variant(name, **OPTIONS) for name in get_args(LambVariant)}
RULES |= {"matrices": LambOptions(trust_1d=False), "adamw": AdamWOptions()}
# None: a shard for each parameter. Else flat shards: of one element, at odd offsets, beginning within a row; and the
# elements between their slices.
CUTS = ((None, 0), ((700,), 3), ((1352, 1353, 1354, 1400), 0), ((1352, 1353, 1354, 1400), 3))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_table, "BLOCK_NUMEL", 256)
    monkeypatch.setattr(triton_norms, "CHUNK", 64)


def stepped(
    kind: KernelKind, layout: ShardLayout, rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> tuple[Bound, list[float]]:
    """After some steps, some of them clipped; and their gradient norms."""
    force_kernels(monkeypatch, kind)
    bound = bind(layout, rule, weight_decay=0.1, max_grad_norm=MAX_GRAD_NORM)
    bound.scatter(draw(0, 0.1), "weight")
    return bound, [bound.step(draw(step + 1, 0.5 + step / 4), LR)[0] for step in range(STEPS)]


def layout_of(cuts: tuple[int, ...] | None, padding: int) -> ShardLayout:
    return whole_layout() if cuts is None else cut_layout(cuts, padding)


@pytest.mark.parametrize(("cuts", "padding"), CUTS, ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_equal_to_the_loops_of_the_cpu(
    rule: Rule, cuts: tuple[int, ...] | None, padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments in every bit; sums of squares, and what hangs on them, up to the order in which float64 is added."""
    ours, norms = stepped("triton", layout_of(cuts, padding), rule, monkeypatch)
    theirs, expected = stepped("numba", layout_of(cuts, padding), rule, monkeypatch)
    assert min(norms) < MAX_GRAD_NORM < max(norms)
    assert norms == pytest.approx(expected, rel=1e-13)
    for kind in rule.moment_kinds:
        for one, other in zip(ours.optimizer.moments(kind), theirs.optimizer.moments(kind), strict=True):
            torch.testing.assert_close(one, other, rtol=2e-7, atol=0.0)
    for mine, its in zip(ours.layout.shards, theirs.layout.shards, strict=True):
        torch.testing.assert_close(mine.tensor, its.tensor, rtol=2e-7, atol=1e-9, equal_nan=True)
    found, figures = ours.optimizer.parameter_figures(), theirs.optimizer.parameter_figures()
    assert found.keys() == figures.keys()
    for kind in found:
        assert found[kind] == pytest.approx(figures[kind], rel=1e-7)


def test_a_step_that_is_not_clipped_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm then enters nothing: moments and updates are the loops' own."""
    found = []
    for kind in ("triton", "numba"):
        force_kernels(monkeypatch, kind)
        bound = bind(cut_layout((700,), 3), LambOptions(), weight_decay=0.1)
        bound.scatter(draw(0, 0.1), "weight")
        bound.step(draw(1), LR)
        updates = [shard.tensor.grad for shard in bound.layout.shards]
        moments = [bound.optimizer.moments(kind) for kind in ("exp_avg", "exp_avg_sq")]
        found.append([each.clone() for each in [*updates, *moments[0], *moments[1]] if each is not None])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.view(torch.int32), other.view(torch.int32))  # NaN between the slices, too


@pytest.mark.parametrize("name", get_args(LambVariant))
def test_variant_equals_float64(name: LambVariant, monkeypatch: pytest.MonkeyPatch) -> None:
    force_kernels(monkeypatch, "triton")
    rule = LambOptions.variant(name, **OPTIONS)
    assert distance_from_judge(rule, JUDGES[name], 1.0 if name == "nvidia" else 0.0) < 2e-6


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_arrays_that_begin_anywhere(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and gradients are views into larger tensors, moments tensors of their own: not all of them aligned."""
    found = []
    for kind in ("triton", "numba"):
        force_kernels(monkeypatch, kind)
        bound = bind(whole_layout(), LambOptions(), weight_decay=0.1)
        shards = []
        for index, info in enumerate(PARAMETERS):
            flat = torch.zeros(info.numel + shift)
            parameter = torch.nn.Parameter(flat[shift:].view(info.shape))
            shards.append(Shard(parameter, (Slice(index, 0, 0, info.numel),)))
        bound.layout = ShardLayout(PARAMETERS, tuple(shards))
        bound.optimizer.bind(bound.layout)
        bound.scatter(draw(0, 0.1), "weight")
        bound.step(draw(1), LR)
        found.append(bound.gather())
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-7, atol=1e-9)


def test_a_gradient_that_is_not_finite_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = stepped("triton", cut_layout((700,), 3), LambOptions(), monkeypatch)
    before = [each.clone() for each in ours.gather()]
    bad = draw(9)
    bad[1][3] = torch.inf
    _, skip = ours.step(bad, LR)
    assert skip is not None and skip.reason == "not finite"
    assert all(torch.equal(one, other) for one, other in zip(ours.gather(), before, strict=True))


@pytest.mark.parametrize("rule", [LambOptions(), AdamWOptions()], ids=["lamb", "adamw"])
def test_a_rank_that_holds_nothing(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """No slice at all; and a slice of no element beside one that has some."""
    force_kernels(monkeypatch, "triton")
    for pieces in ((), (Slice(0, 0, 0, 0), Slice(1, 0, 0, 2))):
        parameter = torch.nn.Parameter(torch.ones(4))
        bound = bind(ShardLayout(PARAMETERS, (Shard(parameter, pieces),)), rule, weight_decay=0.1)
        parameter.grad = torch.ones(4)
        bound.optimizer.begin(LR)
        bound.optimizer.step()
        norm, _ = bound.optimizer.finish()
        assert norm == pytest.approx(2**0.5 if pieces else 0.0)
        assert (parameter.detach() < 1).tolist() == [bool(pieces)] * 2 + [False] * 2


def test_norms_in_float64_and_in_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of squares that float32 cannot hold, of a parameter in several slices, with NaN between them."""
    force_kernels(monkeypatch, "triton")
    infos = tuple(ParameterInfo(name, (5000,)) for name in "abcd")
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(6000, generator=draw)
    values[:1000] *= 1e-30
    values[5000:] *= 1e30
    values[4000:4100] = torch.nan
    pieces = (
        Slice(2, 0, 0, 1000),
        Slice(0, 0, 1001, 2999),
        Slice(0, 3100, 4100, 800),
        Slice(3, 9, 5000, 999),
    )
    layout = ShardLayout(infos, (Shard(values, pieces),))
    found = [layout.partial_squared_norms(Sliced(layout.table, [values])).tolist() for _ in range(2)]
    assert found[0] == found[1]
    wide = values.double().square()
    expected = [wide[1001:4000].sum() + wide[4100:4900].sum(), 0.0, wide[:1000].sum(), wide[5000:5999].sum()]
    assert found[0] == pytest.approx(torch.tensor(expected).tolist(), rel=1e-13)


def test_what_lies_behind_the_end_enters_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eps that is 0 in float32: behind the end nothing may be divided by it."""
    force_kernels(monkeypatch, "triton")
    bound = bind(whole_layout(), LambOptions(eps=1e-50), weight_decay=0.0)
    bound.scatter(draw(0), "weight")
    bound.step(draw(1), LR)
    expected = {info.name: info.numel**0.5 for info in PARAMETERS}  # each update is a sign
    assert bound.optimizer.parameter_figures()["update_norm"] == pytest.approx(expected, rel=1e-6)
