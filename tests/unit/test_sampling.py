"""Choosing rows: in proportion, in no order, and nearly the same ones when the data grows."""

import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinybert.sampling import choose, quotas

Row = tuple[str, str | None]


def texts(count, first=0):
    return [(f"sentence {number}", None) for number in range(first, first + count)]


def chosen(rows, labels, count, seed=0, purpose="split", **limits) -> set[Row]:
    return {rows[place] for place in choose(rows, labels, count, purpose=purpose, seed=seed, **limits)}


@st.composite
def wanted_of_labels(draw):
    """Sizes of labels, how many rows are wanted in all, how many of each label are spared, and how many a must."""
    spare, least = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    sizes = draw(st.dictionaries(st.text("abc", min_size=1), st.integers(least + spare, 60), min_size=1, max_size=12))
    return sizes, draw(st.integers(least * len(sizes), sum(sizes.values()) - spare * len(sizes))), spare, least


@settings(deadline=None)
@given(wanted_of_labels())
def test_quotas_make_the_count_and_leave_no_label_out(wanted):
    sizes, count, spare, least = wanted
    quota = quotas(sizes, count, spare, least)
    assert sum(quota.values()) == count
    assert quota.keys() == sizes.keys()
    assert all(least <= quota[label] <= sizes[label] - spare for label in sizes)


@settings(deadline=None)
@given(wanted_of_labels())
def test_quotas_are_shares_within_one_row_wherever_labels_allow(wanted):
    sizes, count, spare, least = wanted
    shares = {label: Fraction(count * size, sum(sizes.values())) for label, size in sizes.items()}
    quota = quotas(sizes, count, spare, least)
    if all(least <= shares[label] <= sizes[label] - spare for label in sizes):
        assert all(abs(quota[label] - shares[label]) < 1 for label in sizes)
        whole = {label: int(share) for label, share in shares.items()}
        by_remainder = sorted(sizes, key=lambda label: (whole[label] - shares[label], label))
        rounded_up = by_remainder[: count - sum(whole.values())]
        assert quota == {label: whole[label] + (label in rounded_up) for label in sizes}


def test_quotas_worked_out_by_hand():
    assert quotas({"a": 50, "b": 30, "c": 20}, 10) == {"a": 5, "b": 3, "c": 2}
    assert quotas({"a": 47, "b": 16, "c": 37}, 10) == {"a": 5, "b": 1, "c": 4}  # 4.7, 1.6, 3.7
    assert quotas({"b": 5, "a": 5}, 3) == {"a": 2, "b": 1}  # equal remainders: the first by name
    assert quotas({"a": 97, "b": 2, "c": 1}, 10) == {"a": 8, "b": 1, "c": 1}  # 9.7, 0.2, 0.1
    assert quotas({"a": 2, "b": 2, "c": 6}, 7, spare=1) == {"a": 1, "b": 1, "c": 5}  # 1.4, 1.4, 4.2
    assert quotas({"a": 20, "b": 4, "c": 3}, 9, least=2) == {"a": 5, "b": 2, "c": 2}  # 6.7, 1.3, 1.0


@st.composite
def labelled_rows(draw):
    """Distinct rows with labels of at least two rows each, a count that splits them, and the share it came from."""
    names = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True))
    labels = draw(st.lists(st.sampled_from(names), max_size=80)) + 2 * names
    share = draw(st.floats(0.05, 0.5))
    return texts(len(labels)), labels, share


def split_count(labels, share):
    return max(round(share * len(labels)), len(set(labels)))


@settings(deadline=None)
@given(labelled_rows(), st.integers(0, 3), st.randoms())
def test_the_order_of_rows_does_not_matter(labelled, seed, chance):
    rows, labels, share = labelled
    count = split_count(labels, share)
    taken = chosen(rows, labels, count, seed, spare=1)
    assert Counter(label for row, label in zip(rows, labels, strict=True) if row in taken) == quotas(
        Counter(labels), count, 1
    )
    mixed = list(zip(rows, labels, strict=True))
    chance.shuffle(mixed)
    assert chosen(*map(list, zip(*mixed, strict=True)), count, seed, spare=1) == taken


@settings(deadline=None)
@given(labelled_rows(), st.lists(st.sampled_from("abcdef"), max_size=10), st.integers(0, 3))
def test_a_row_that_is_added_moves_about_one_other(labelled, more, seed):
    rows, labels, share = labelled
    more = [label for label in more if label in labels]
    grown_rows, grown_labels = rows + texts(len(more), first=len(rows)), labels + more
    before = chosen(rows, labels, split_count(labels, share), seed, spare=1)
    after = chosen(grown_rows, grown_labels, split_count(grown_labels, share), seed, spare=1)
    bound = len(more) + len(set(labels))  # the latter, because quotas are rounded
    assert len(before - after) <= bound
    assert len((after & set(rows)) - before) <= bound


def labels_of(rows):
    """A third good, the others bad or odd, whatever the order."""
    return [("good", "bad", "odd", "bad", "bad", "good")[int(row[0].split()[1]) % 6] for row in rows]


@pytest.mark.parametrize("seed", range(5))
def test_two_in_a_hundred_more_rows_leave_the_split_nearly_as_it_was(seed):
    """Of 200 new rows about 20 are taken; a random split would exchange about 900 of 1,000."""
    old, grown = texts(10_000), texts(10_200)
    random.Random(seed).shuffle(grown)
    before = chosen(old, labels_of(old), 1_000, seed, spare=1)
    after = chosen(grown, labels_of(grown), 1_020, seed, spare=1)
    assert (len(before), len(after)) == (1_000, 1_020)
    assert len(before ^ after) < 60
    assert len(before - after) < 20


@pytest.mark.parametrize("seed", range(5))
def test_a_larger_sample_holds_the_smaller_one(seed):
    rows = texts(3_000)
    small = chosen(rows, labels_of(rows), 300, seed, "sample")
    assert small < chosen(rows, labels_of(rows), 600, seed, "sample")


def test_seeds_and_purposes_choose_independently():
    """Of 1,000 rows, two independent choices of 300 share 90, give or take 30 (four standard deviations of 8)."""
    rows = texts(1_000)
    one_label = ["good"] * len(rows)
    first = chosen(rows, one_label, 300, seed=0)
    assert 60 < len(first & chosen(rows, one_label, 300, seed=1)) < 120
    others = [chosen(rows, one_label, 300, seed=0, purpose=purpose) for purpose in ("test", "sample")]
    assert 60 < len(first & others[0]) < 120
    assert 60 < len(first & others[1]) < 120
    assert 60 < len(others[0] & others[1]) < 120


def test_a_pair_is_told_from_its_parts():
    pairs = [("one two", None), ("one", "two"), ("two", "one"), ("one two", "")]
    for count in range(1, 4):
        assert len(chosen(pairs, ["good"] * 4, count)) == count
    first = {seed: chosen(pairs, ["good"] * 4, 1, seed).pop() for seed in range(40)}
    assert set(first.values()) == set(pairs)


def test_the_choice_is_the_same_on_every_machine():
    """Numbers worked out with `b2sum -l 128` of the JSON text, e.g. [7, "split", "sentence 0", null]."""
    assert sorted(choose(texts(8), ["good"] * 8, 3, purpose="split", seed=7)) == [1, 3, 4]
