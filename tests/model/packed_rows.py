"""Hand-made samples, laid out in rows as the data floor lays them out."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

VOCAB_SIZE = 97
SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


@dataclass(frozen=True)
class Sample:
    """One sample: token ids, token types, the labels of its masked positions and its NSP label."""

    tokens: tuple[int, ...]
    token_types: tuple[int, ...]
    masked: tuple[tuple[int, int], ...]  # (position in the sample, label)
    nsp_label: int


@dataclass(frozen=True)
class PackedRows:
    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    sample_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    masked_positions: Tensor
    masked_labels: Tensor
    cls_positions: Tensor
    nsp_labels: Tensor


def make_samples(lengths: Iterable[int], seed: int = 0, nsp: bool = True) -> list[Sample]:
    """Samples of random text with two or more masked tokens each, and two segments if `nsp`."""
    draw = torch.Generator().manual_seed(seed)

    def random_ids(count: int) -> list[int]:
        return torch.randint(5, VOCAB_SIZE, (count,), generator=draw).tolist()

    samples = []
    for index, length in enumerate(lengths):
        tokens = [SPECIAL_IDS["cls"], *random_ids(length - 2), SPECIAL_IDS["sep"]]
        positions = torch.randperm(length - 2, generator=draw)[: 2 + index % 3].add(1).sort().values.tolist()
        masked = tuple(zip(positions, random_ids(len(positions)), strict=True))
        for position in positions[1:]:  # the first keeps its own token, as one selected token in ten does
            tokens[position] = SPECIAL_IDS["mask"]
        types = [int(nsp and position >= length // 2) for position in range(length)]
        samples.append(Sample(tuple(tokens), tuple(types), masked, index % 2 if nsp else -100))
    return samples


def lay_out(rows: list[list[Sample]], seq_len: int) -> PackedRows:
    """Rows of samples one after another; rows, masked positions and pairs are padded as in a real batch."""
    shape = (len(rows), seq_len)
    input_ids, token_types = torch.full(shape, SPECIAL_IDS["pad"]), torch.zeros(shape, dtype=torch.long)
    position_ids, sample_ids = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.int32)
    starts, masked, pairs = [], [], []
    for row, samples in enumerate(rows):
        start = 0
        for number, sample in enumerate(samples, start=1):
            end = start + len(sample.tokens)
            input_ids[row, start:end] = torch.tensor(sample.tokens)
            token_types[row, start:end] = torch.tensor(sample.token_types)
            position_ids[row, start:end] = torch.arange(end - start)
            sample_ids[row, start:end] = number
            flat = row * seq_len + start
            starts.append(flat)
            masked += [(flat + position, label) for position, label in sample.masked]
            pairs.append((flat, sample.nsp_label))
            start = end
        if start < seq_len:
            starts.append(row * seq_len + start)
    masked += [(0, -100)] * (-len(masked) % 8)
    pairs += [(0, -100)] * (-len(pairs) % 4)
    cu_seqlens = torch.tensor([*starts, len(rows) * seq_len], dtype=torch.int32)
    return PackedRows(
        input_ids=input_ids,
        token_type_ids=token_types,
        position_ids=position_ids,
        sample_ids=sample_ids,
        cu_seqlens=cu_seqlens,
        max_seqlen=int(cu_seqlens.diff().max()),
        masked_positions=torch.tensor([position for position, _ in masked]),
        masked_labels=torch.tensor([label for _, label in masked]),
        cls_positions=torch.tensor([position for position, _ in pairs]),
        nsp_labels=torch.tensor([label for _, label in pairs]),
    )
