"""Plans against the procedure in words: sentence by sentence and token by token, given the same draws."""

from dataclasses import dataclass
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.nsp import IS_NEXT, IS_RANDOM
from pretrain.data.options import SamplingOptions
from pretrain.data.pairs import Draw, coin_sum, fit_pair
from pretrain.data.plan import plan_window
from pretrain.data.samples import SamplePlan, WindowText
from pretrain.errors import UsageError
from tests.data.draws import Draws
from tests.data.fakes import Documents, fake_block, random_documents

documents_strategy = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=12)
keys = st.integers(0, 2**64 - 1)


def options_for(objective: str, seq_len: int = 32, **changes: float) -> SamplingOptions:
    return SamplingOptions(seq_len, objective, packing=True, **changes)  # type: ignore[arg-type]


def plan_of(documents: Documents, options: SamplingOptions, draw_key: int = 1) -> SamplePlan:
    return plan_window([fake_block(documents)], options, draw_key)


def document_of_token(documents: Documents) -> np.ndarray:
    return np.repeat(np.arange(len(documents)), [sum(document) for document in documents])


@dataclass(frozen=True)
class Pair:
    a: list[int]
    b: list[int]
    label: int


def reference_pairs(documents: Documents, options: SamplingOptions, draw_key: int) -> list[Pair]:
    """BERT's procedure over lists of token numbers; every sentence shorter than a sample, two documents."""
    draws, limit = Draws(options, draw_key), options.max_text_tokens
    texts, token = [], 0
    for document in documents:
        texts.append([list(range(token + sum(document[:i]), token + sum(document[: i + 1])))
                      for i in range(len(document))])  # fmt: skip
        token += sum(document)
    first_sentence = np.cumsum([0, *map(len, documents)]).tolist()
    pairs, surplus_random = [], 0
    for own, text in enumerate(texts):
        position = 0
        while position < len(text):
            number = first_sentence[own] + position
            target = draws.target(number)
            chunk: list[list[int]] = []
            while position + len(chunk) < len(text) and sum(map(len, chunk)) < target:
                chunk.append(text[position + len(chunk)])
            num_a = 1 + draws.below(Draw.CUT, number, max(len(chunk) - 1, 1))
            a, rest = list(chain(*chunk[:num_a])), list(chain(*chunk[num_a:]))
            is_random = len(chunk) == 1 or draws.coin(Draw.LABEL, number)
            if len(chunk) == 1:
                surplus_random += 1
            elif is_random and surplus_random >= 2:
                is_random = False
                surplus_random -= 2
            if is_random:
                other = draws.below(Draw.OTHER_DOCUMENT, number, len(texts) - 1)
                other += other >= own
                begin = draws.below(Draw.OTHER_SENTENCE, number, len(texts[other]))
                b: list[int] = []
                for sentence in texts[other][begin:]:
                    b = b + sentence
                    if len(a) + len(b) >= target:
                        break
                position += num_a
            else:
                b = rest
                position += len(chunk)
            a, b = draws.truncated(a, b, limit, number)
            pairs.append(Pair(a, b, IS_RANDOM if is_random else IS_NEXT))
    return pairs


@given(
    documents=st.lists(st.lists(st.integers(1, 29), min_size=1, max_size=12), min_size=2, max_size=12),
    draw_key=keys,
)
def test_pairs_are_those_of_the_procedure_in_words(documents: Documents, draw_key: int) -> None:
    options = options_for("nsp", short_sample_probability=0.3)
    plan = plan_of(documents, options, draw_key)
    columns = (plan.a_start, plan.a_length, plan.b_start, plan.b_length, plan.nsp_label)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    pairs = [
        Pair(list(range(a, a + a_length)), list(range(b, b + b_length)), label)
        for a, a_length, b, b_length, label in rows
    ]
    assert pairs == reference_pairs(documents, options, draw_key)


@given(documents=documents_strategy, draw_key=keys)
def test_segments_stay_in_documents_and_follow_or_do_not(documents: Documents, draw_key: int) -> None:
    plan = plan_of(documents, options_for("nsp"), draw_key)
    document = document_of_token(documents)
    a_end, b_end = plan.a_start + plan.a_length, plan.b_start + plan.b_length
    assert (plan.a_length > 0).all() and (plan.b_length > 0).all()
    assert (plan.text_lengths <= 29).all()
    assert (document[plan.a_start] == document[a_end - 1]).all()
    assert (document[plan.b_start] == document[b_end - 1]).all()
    follows = plan.nsp_label == IS_NEXT
    assert (document[plan.a_start] == document[plan.b_start]).tolist() == follows.tolist()
    assert (plan.b_start >= a_end)[follows].all()


@given(documents=documents_strategy, draw_key=keys)
def test_every_token_of_a_window_is_accounted_for(documents: Documents, draw_key: int) -> None:
    plan = plan_of(documents, options_for("nsp"), draw_key)
    shown = int(plan.a_length.sum() + plan.b_length[plan.nsp_label == IS_NEXT].sum())
    assert plan.num_window_tokens == sum(map(sum, documents))
    assert shown + plan.num_truncated_tokens + plan.num_dropped_tokens == plan.num_window_tokens


@pytest.mark.parametrize("mean_sentences", [3.0, 40.0])
def test_half_of_the_pairs_are_random(mean_sentences: float) -> None:
    """Whether documents are short, with many lone last sentences, or long."""
    plan = plan_of(random_documents(6000, sentences=mean_sentences), options_for("nsp", 128), 3)
    num_random = int((plan.nsp_label == IS_RANDOM).sum())
    assert plan.num_samples > 7000
    # Lone pairs are made up for exactly, the others are coins: at most five standard deviations.
    assert abs(num_random - plan.num_samples / 2) < 5 * np.sqrt(plan.num_samples) / 2


def test_one_pair_in_ten_is_short() -> None:
    """In documents that never end, only pairs of shorter target leave room."""
    options = options_for("nsp", 128)
    plan = plan_of([[5] * 60_000 for _ in range(4)], options, 4)
    is_short = plan.text_lengths < options.max_text_tokens
    # Targets of 121 tokens and more fill up from sentences of five: 4% of the short ones.
    expected = plan.num_samples * 0.1 * 119 / 124
    assert abs(int(is_short.sum()) - expected) < 5 * np.sqrt(expected)
    assert abs(plan.text_lengths[is_short].mean() - 62) < 5


def test_cuts_and_partners_are_spread_evenly() -> None:
    documents = [[10] * 12 for _ in range(2000)]
    plan = plan_of(documents, options_for("nsp", 128, short_sample_probability=0.0), 5)
    document = document_of_token(documents)
    random = plan.nsp_label == IS_RANDOM
    partner = document[plan.b_start[random]]
    assert abs(partner.mean() / 2000 - 0.5) < 0.02
    # The chunk of twelve sentences that begins a document is cut behind each but the last.
    first = (plan.a_start % 120 == 0) & ~random
    counts = np.bincount(plan.a_length[first] // 10, minlength=12)[1:12]
    assert counts.min() > 0.6 * first.sum() / 11


@pytest.mark.parametrize("objective", ["nsp", "sop", "mlm"])
def test_other_keys_plan_other_samples(objective: str) -> None:
    documents, options = random_documents(50), options_for(objective, 64)
    assert plan_of(documents, options, 1).a_start.tolist() != plan_of(documents, options, 2).a_start.tolist()


def test_blocks_lie_one_after_another() -> None:
    documents = random_documents(30)
    blocks = [fake_block(documents[:11]), fake_block(documents[11:])]
    plan = plan_window(blocks, options_for("nsp", 64), 1)
    assert plan.a_start.tolist() == plan_of(documents, options_for("nsp", 64)).a_start.tolist()


def test_a_lone_document_gives_actual_pairs_only() -> None:
    plan = plan_of([[10] * 20], options_for("nsp"), 6)
    assert plan.num_samples > 3
    assert (plan.nsp_label == IS_NEXT).all()


def test_a_lone_sentence_without_partner_is_cut_in_two_or_dropped_and_counted() -> None:
    cut = plan_of([[9]], options_for("nsp"))
    assert (cut.a_length.tolist(), cut.b_start.tolist(), cut.b_length.tolist()) == ([5], [5], [4])
    assert cut.nsp_label.tolist() == [IS_NEXT]
    dropped = plan_of([[1]], options_for("nsp"))
    assert dropped.num_samples == 0
    assert (dropped.num_dropped_sentences, dropped.num_dropped_tokens) == (1, 1)


def test_documents_of_one_sentence_make_random_pairs() -> None:
    plan = plan_of([[5], [6], [7]], options_for("nsp"))
    assert plan.nsp_label.tolist() == [IS_RANDOM] * 3
    assert (plan.num_lone_pairs, plan.num_dropped_sentences) == (3, 0)


def test_sentences_longer_than_a_sample_come_in_even_pieces() -> None:
    text = WindowText.from_blocks([fake_block([[100, 3], [29]])], 29)
    assert np.diff(text.offsets).tolist() == [13, 13, 13, 13, 12, 12, 12, 12, 3, 29]
    assert text.document_first.tolist() == [0, 9, 10]
    assert text.num_cut == 1
    assert plan_of([[100, 3], [29]], options_for("nsp")).num_cut_sentences == 1


def test_fitted_lengths_are_those_of_taking_token_by_token() -> None:
    for limit in (12, 13):
        for a in range(1, 30):
            for b in range(1, 30):
                left_a, left_b = a, b
                while left_a + left_b > limit:
                    if left_a > left_b:
                        left_a -= 1
                    else:
                        left_b -= 1
                fitted = fit_pair(np.array([a]), np.array([b]), limit)
                assert (fitted[0][0], fitted[1][0]) == (left_a, left_b)


def test_tokens_are_taken_from_both_ends_alike() -> None:
    tosses = np.full(20_000, 150)
    heads = coin_sum(tosses, 9, Draw.TRIM_A, np.arange(20_000))
    # Binomial(150, 1/2): mean 75, variance 37.5.
    assert abs(heads.mean() - 75) < 5 * np.sqrt(37.5 / 20_000)
    assert abs(heads.var() - 37.5) < 2


@given(documents=documents_strategy, draw_key=keys, seq_len=st.integers(8, 70))
def test_segments_of_mlm_show_every_token_once(documents: Documents, draw_key: int, seq_len: int) -> None:
    plan = plan_of(documents, options_for("mlm", seq_len), draw_key)
    document, longest = document_of_token(documents), seq_len - 2
    shown = [token for a, n in zip(plan.a_start, plan.a_length, strict=True) for token in range(a, a + n)]
    assert shown == list(range(len(document)))
    assert (plan.a_length >= 1).all() and (plan.a_length <= longest).all()
    assert (document[plan.a_start] == document[plan.a_start + plan.a_length - 1]).all()
    assert (plan.b_length == 0).all() and (plan.nsp_label == -100).all()
    for number, sentences in enumerate(documents):
        segments = plan.a_length[document[plan.a_start] == number]
        assert len(segments) == 1 or sum(sentences) > longest
        assert (segments[1:-1] == longest).all()


def test_first_segments_of_mlm_have_all_lengths() -> None:
    plan = plan_of([[300]] * 3000, options_for("mlm"), 7)
    first = plan.a_length[plan.a_start % 300 == 0]
    assert sorted(set(first.tolist())) == list(range(1, 31))


@pytest.mark.parametrize(
    "changes",
    [
        {"seq_len": 7},
        {"seq_len": 65_537},
        {"objective": "clm"},
        {"mask_probability": 0.0},
        {"mask_probability": 1.1},
        {"mask_token_share": 0.95},
        {"random_token_share": -0.1},
        {"short_sample_probability": 2.0},
        {"window_blocks": 0},
        {"static_epochs": -1},
    ],
)
def test_options_out_of_range_are_named(changes: dict[str, object]) -> None:
    values: dict[str, object] = {"seq_len": 128, "objective": "nsp", "packing": True} | changes
    with pytest.raises(UsageError, match=next(iter(changes))):
        SamplingOptions(**values)  # type: ignore[arg-type]
