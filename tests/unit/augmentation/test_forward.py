"""Rows read side by side, or padded: the model's own numbers, and the same in whatever company."""

import random

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    MPNetConfig,
    MPNetForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tinybert.augmentation.forward import ON_GPU, Packed, Padded, Pass, forward_of, side_by_side_attention
from tinybert.gradients import SliceSize

SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
SHAPE |= {"vocab_size": 300, "max_position_embeddings": 100}
DISTILBERT = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": 300}
FAMILIES = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SHAPE)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SHAPE, type_vocab_size=1, pad_token_id=1)),
    "electra": lambda: ElectraForMaskedLM(ElectraConfig(**SHAPE, embedding_size=32)),
    "distilbert": lambda: DistilBertForMaskedLM(DistilBertConfig(**DISTILBERT)),
    "mpnet": lambda: MPNetForMaskedLM(MPNetConfig(**SHAPE)),
}


def model_of(family):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


def rows_of(seed, number, longest=70, words=3):
    rng = random.Random(seed)
    for _ in range(number):
        ids = [rng.randrange(4, 300) for _ in range(rng.randrange(3, longest))]
        types = [int(at > len(ids) // 2) for at in range(len(ids))]
        yield Pass(ids, types, [[place] for place in sorted(rng.sample(range(len(ids)), min(words, len(ids))))])


def read(forward, rows, batch_tokens=8192):
    """For each row what the head reads at its places."""
    found = {}
    for batch in forward.batches(rows, batch_tokens):
        counts = [sum(map(len, rows[index].places)) for index in batch]
        found |= zip(batch, forward.hidden([rows[index] for index in batch]).split(counts), strict=True)
    return [found[index] for index in range(len(rows))]


def same(left, right):
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", ["chosen", "padded"])
def test_rows_read_together_are_as_each_by_itself(family, way):
    model = model_of(family)
    rows = list(rows_of(5, 60))
    expected = []
    for row in rows:
        inputs = {"input_ids": torch.tensor([row.ids])}
        if family in ("bert", "electra"):
            inputs["token_type_ids"] = torch.tensor([row.types])
        with torch.no_grad():
            hidden_LD = model.base_model(**inputs).last_hidden_state[0]
        expected.append(hidden_LD[[place for [place] in row.places]])
    forward = Padded(model, 1, 1024) if way == "padded" else forward_of(model, 1)
    for found, own in zip(read(forward, rows), expected, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)


def test_rows_stand_side_by_side_on_a_cpu_where_the_family_can():
    chosen = {family: type(forward_of(model_of(family), 0)) for family in FAMILIES}
    assert chosen == dict.fromkeys(FAMILIES, Packed) | {"mpnet": Padded}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch_tokens", [10, 1024, 2000, 100_000])
@pytest.mark.parametrize("way", [Packed, Padded])
def test_a_row_has_the_same_bits_in_any_company(way, batch_tokens, dtype):
    model = model_of("bert").to(dtype)
    forward = Packed(model, 0) if way is Packed else Padded(model, 0, 4096)
    rows = list(rows_of(1, 90))
    whole = read(forward, rows)
    assert same(read(forward, rows, batch_tokens), whole)
    assert same(read(forward, rows[::-1], batch_tokens)[::-1], whole)
    assert same([read(forward, [row], batch_tokens)[0] for row in rows[:9]], whole[:9])


@pytest.fixture
def entered():
    """A model of 64 units, and what it is given."""
    model, given = model_of("bert"), []
    model.base_model.register_forward_pre_hook(lambda _, __, inputs: given.append(inputs), with_kwargs=True)
    return model, given


def test_side_by_side_hardly_anything_is_filled_up(entered):
    model, given = entered
    rows = list(rows_of(2, 300))
    read(Packed(model, 0), rows, 4500)
    sizes = [inputs["input_ids"].numel() for inputs in given]
    assert set(sizes[:-1]) == {4096}
    assert sizes[-1] % 1024 == 0
    assert 0 <= sum(sizes) - sum(len(row.ids) for row in rows) < 1024 + 70 * len(sizes)


def test_runs_of_a_length_are_told_to_the_attention(entered):
    model, given = entered
    long, short = Pass([5] * 90, [0] * 90, [[3]]), Pass([6, 7], [0, 0], [[1]])
    read(Packed(model, 0), [long, short, *[long] * 20], 1024)
    assert [inputs["runs"] for inputs in given] == [[(1, 2), (11, 90)], [(10, 90)]]


def test_a_row_of_more_tokens_than_a_batch_is_read_alone(entered):
    long, short = Pass([5] * 1500, [0] * 1500, [[3]]), Pass([6, 7], [0, 0], [[1]])
    assert list(Packed(entered[0], 0).batches([long, short, long, short], 10)) == [[1, 3], [0], [2]]


def test_matrix_products_have_few_shapes_whatever_the_number_of_rows(entered):
    """oneDNN keeps what it compiles for each of them."""
    model, _ = entered
    seen, forward = set(), Packed(model, 0)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(lambda _, given: seen.add(tuple(given[0].shape[:-1])))
    for seed, number in enumerate([20, 700]):
        read(forward, list(rows_of(seed, number, words=70)), 2048)
    assert seen == {(1, 1024), (1, 2048)}


def test_the_size_of_a_padded_pass_follows_from_its_length_alone(entered):
    model, given = entered
    forward, rows = Padded(model, 0, ON_GPU), list(rows_of(1, 300))
    whole = read(forward, rows)
    for part in (rows, rows[:7], rows[200:201]):
        given.clear()
        assert same(read(forward, part), whole[rows.index(part[0]) :][: len(part)])
        masks = [inputs["attention_mask"] for inputs in given]
        assert all(len(mask) == 8192 // mask.shape[1] for mask in masks)
        assert len({mask.shape[1] for mask in masks}) == len({-(-len(row.ids) // 4) for row in part})
        assert not any(bool(mask.all()) for mask in masks)


def of_one_length(number):
    """Rows that are padded to 64 tokens."""
    rows = [row for row in rows_of(3, 6000) if 60 < len(row.ids) <= 64][:number]
    assert len(rows) == number
    return rows


def test_no_row_beyond_a_full_padded_pass_is_lost(entered):
    """All of one length: 127 fit into a pass of 128 rows, beside the empty one."""
    model, given = entered
    rows = of_one_length(300)
    assert len(read(Padded(model, 0, ON_GPU), rows)) == 300
    assert [tuple(inputs["input_ids"].shape) for inputs in given] == [(128, 64)] * 3


@pytest.mark.parametrize("way", [Packed, Padded])
def test_rows_that_do_not_fit_into_memory_are_halved(entered, monkeypatch, way):
    model, given = entered
    forward = Packed(model, 0) if way is Packed else Padded(model, 0, 8192)
    rows = of_one_length(300)
    whole = read(forward, rows)
    plain = type(model.base_model).forward

    def forward_pass(self, **inputs):
        if inputs["input_ids"].numel() > 2500:
            raise torch.OutOfMemoryError
        return plain(self, **inputs)

    monkeypatch.setattr(type(model.base_model), "forward", forward_pass)
    monkeypatch.setattr(forward, "_slices", SliceSize("augment"))
    given.clear()
    assert same(read(forward, rows), whole)
    sizes = [inputs["input_ids"].numel() for inputs in given]
    # What fits is remembered.
    if way is Packed:
        assert [size for size in sizes if size > 2500] == [8192, 4096, 3072]
    else:
        assert [size for size in sizes if size > 2500] == [8192, 4096]
        assert set(sizes[2:]) == {2048}


def test_attention_side_by_side_is_each_row_s_own():
    torch.manual_seed(0)
    states = [torch.randn(1, 2, 12, 8, dtype=torch.float64) for _ in range(3)]
    found, weights = side_by_side_attention(torch.nn.Module(), *states, None, [(2, 3), (1, 5)], scaling=0.5)
    assert weights is None
    assert found.shape == (1, 12, 2, 8)
    assert not found[0, 11:].any()
    for start, end in ((0, 3), (3, 6), (6, 11)):
        for head in range(2):
            query, key, value = (state[0, head, start:end] for state in states)
            own = (0.5 * query @ key.T).softmax(-1) @ value
            torch.testing.assert_close(found[0, start:end, head], own)
