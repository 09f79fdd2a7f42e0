"""The matrix: every fault with its promise, in the order in which they are tried."""

from pretrain.faults import (
    asked,
    damage,
    folders,
    killed,
    malicious,
    numbers,
    room,
    same,
    saves,
    stopped,
    stores,
)
from pretrain.faults.row import Row

ROWS: tuple[Row, ...] = (
    *killed.ROWS,
    *saves.ROWS,
    *room.ROWS,
    *damage.ROWS,
    *stores.ROWS,
    *asked.ROWS,
    *same.ROWS,
    *numbers.ROWS,
    *stopped.ROWS,
    *folders.ROWS,
    *malicious.ROWS,
)
