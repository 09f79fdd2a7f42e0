"""Adafactor (Shazeer and Stern 2018, arXiv 1804.04235, Algorithm 4) over slices, exact under any sharding.

The second moment of a matrix is kept as the moving averages of its row means and column means. Every rank holds those
vectors whole: they are small, and their next values are sums over all ranks anyway. Of each local slice:

1. squared gradients are added up by row and by column, squared weights by parameter; one all-reduce completes them;
2. the averages move on; g over the root of (row * column / mean of the rows) is the update;
3. the squares of the updates are added up, and one more all-reduce gives each its root mean square, for clipping.

A parameter with one axis is a matrix of one column: its row averages are then the whole second moment.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import torch

from pretrain.errors import UsageError
from pretrain.optim.moments import LocalSlices, ParameterFigures
from pretrain.sharding import ShardLayout, Slice

Sums = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Matrices:
    """The parameters as matrices, and where the rows and columns of each lie in vectors over all of them."""

    shapes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, layout: ShardLayout) -> "Matrices":
        """Raises UsageError for a parameter with more than two axes."""
        for info in layout.parameters:
            if len(info.shape) > 2:
                raise UsageError(
                    f"optimizer.name adafactor knows vectors and matrices, but parameter {info.name} has the shape "
                    f"{list(info.shape)}: choose lamb or adamw."
                )
        return cls(tuple((info.shape[0], prod(info.shape[1:])) for info in layout.parameters))

    @cached_property
    def first_rows(self) -> list[int]:
        return _starts([rows for rows, _ in self.shapes])

    @cached_property
    def first_columns(self) -> list[int]:
        return _starts([columns for _, columns in self.shapes])

    def rows(self, piece: Slice) -> tuple[int, int]:
        """The rows that a slice touches, the last one excluded, in a vector over all parameters."""
        first, columns = self.first_rows[piece.parameter], self.shapes[piece.parameter][1]
        return first + piece.start // columns, first + -(-piece.end // columns)

    def columns(self, parameter: int) -> tuple[int, int]:
        first = self.first_columns[parameter]
        return first, first + self.shapes[parameter][1]

    def padded(self, values: torch.Tensor, piece: Slice) -> torch.Tensor:
        """A slice's values as whole rows [rows touched, columns], 0 where the slice holds nothing."""
        columns = self.shapes[piece.parameter][1]
        before, after = piece.start % columns, -piece.end % columns
        return torch.nn.functional.pad(values, (before, after)).view(-1, columns)


@dataclass(frozen=True)
class AdafactorOptions:
    """Hyper-parameters, by the paper's names; no first moment.

    `decay` is the exponent of beta2 = 1 - step^-decay (section 7.2), `clipping` the d of section 6, `eps1` is added to
    squared gradients, `eps2` the least scale of a parameter (section 8): the learning rate is relative to it.
    """

    decay: float = 0.8
    clipping: float = 1.0
    eps1: float = 1e-30
    eps2: float = 1e-3

    @property
    def moment_kinds(self) -> tuple[str, ...]:
        return ()

    def new_vectors(self, layout: ShardLayout) -> dict[str, torch.Tensor]:
        """The averages before the first step, over all parameters; whole on every rank, of the weights' dtype."""
        matrices, dtype = Matrices.of(layout), layout.shards[0].tensor.dtype
        sizes = {"exp_avg_sq_row": matrices.first_rows[-1], "exp_avg_sq_col": matrices.first_columns[-1]}
        return {kind: torch.zeros(size, dtype=dtype, device=layout.device) for kind, size in sizes.items()}

    def apply(self, local: LocalSlices, lr: float, step: int) -> ParameterFigures:
        """w <- w - a * (u / max(1, RMS(u) / clipping) + decay * w), a = lr * max(eps2, RMS(w)). No figures.

        The gradients are overwritten by u.
        """
        matrices = Matrices.of(local.layout)
        squares, weight_rms = self._means(local, matrices)
        rows, columns = local.vectors["exp_avg_sq_row"], local.vectors["exp_avg_sq_col"]
        new_share = step**-self.decay
        for average, mean in zip((rows, columns), squares, strict=True):
            # eps1 is in every mean: 0 says that the parameter has no part in this call.
            average.copy_(torch.where(mean > 0, average.lerp(mean.to(average.dtype), new_share), average))
        for gradient, piece in zip(local.gradients, local.slices, strict=True):
            gradient.mul_(self._inverse_root(matrices, piece, rows, columns))
        update_rms = self._root_mean_squares(local)
        rates = lr * weight_rms.clamp(min=self.eps2)
        clips = (update_rms / self.clipping).clamp(min=1.0)
        dtype = local.layout.dtype
        scales = (rates / clips).to(dtype).unbind()
        kept = (1 - rates * local.parameter_decays.table).to(dtype).unbind()
        for weight, update, piece, decay in zip(
            local.weights.views, local.gradients, local.slices, local.decays, strict=True
        ):
            if decay:
                weight.mul_(kept[piece.parameter])
            weight.addcmul_(update, scales[piece.parameter], value=-1)
        return {}

    def _means(self, local: LocalSlices, matrices: Matrices) -> tuple[Sums, torch.Tensor]:
        """Means of squared gradients by row and by column, and the root mean square of each parameter's weights."""
        device, count = local.layout.device, len(matrices.shapes)
        num_rows, num_columns = matrices.first_rows[-1], matrices.first_columns[-1]
        table = torch.zeros(num_rows + num_columns + count, dtype=torch.float64, device=device)
        rows, columns, weights = table.split([num_rows, num_columns, count])
        for gradient, piece in zip(local.gradients, local.slices, strict=True):
            squares = matrices.padded(gradient.square().add_(self.eps1), piece)
            first, last = matrices.rows(piece)
            rows[first:last] += squares.sum(1, dtype=torch.float64)
            first, last = matrices.columns(piece.parameter)
            columns[first:last] += squares.sum(0, dtype=torch.float64)
        weights += local.layout.partial_squared_norms(local.weights)
        local.layout.sum_over_group(table)
        lengths, heights, numels = _sizes(matrices.shapes, device)
        return (rows / lengths, columns / heights), (weights / numels).sqrt()

    def _root_mean_squares(self, local: LocalSlices) -> torch.Tensor:
        """Of each parameter's update, which lies over its gradient; float64 [num_parameters]."""
        layout = local.layout
        sums = layout.sum_over_group(layout.partial_squared_norms(local.raw_gradients))
        _, _, numels = _sizes(Matrices.of(layout).shapes, sums.device)
        return (sums / numels).sqrt()

    @staticmethod
    def _inverse_root(
        matrices: Matrices, piece: Slice, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """1 / sqrt(row * column / mean of all rows) of each of a slice's elements."""
        height, length = matrices.shapes[piece.parameter]
        first = matrices.first_rows[piece.parameter]
        mean = rows[first : first + height].mean(dtype=torch.float64).to(rows.dtype)
        first_row, last_row = matrices.rows(piece)
        first_column, last_column = matrices.columns(piece.parameter)
        of_rows = (rows[first_row:last_row] / mean).rsqrt()
        factors = of_rows[:, None] * columns[first_column:last_column].rsqrt()
        return factors.flatten().narrow(0, piece.start % length, piece.numel)


def _starts(sizes: list[int]) -> list[int]:
    """Where each begins if they are laid end to end, and their end."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts


@lru_cache(maxsize=1)
def _sizes(
    shapes: tuple[tuple[int, int], ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Columns of every row's matrix, rows of every column's, and the size of each matrix.

    Kept: the host would wait in every step until they are on the device.
    """
    rows, columns = (torch.tensor([shape[axis] for shape in shapes]) for axis in (0, 1))
    sizes = columns.repeat_interleave(rows), rows.repeat_interleave(columns), rows * columns
    return sizes[0].to(device), sizes[1].to(device), sizes[2].to(device)
