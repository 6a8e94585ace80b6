"""Word vectors: parsed once into a cache of unit vectors, and the nearest words."""

import os
import struct

import numpy as np
import pytest
import torch

from tinybert import vectors
from tinybert.errors import DataError

WORDS = ["good", "great", "bad", "film", "movie", "42", "co-op", "nothing"]
MATRIX = np.array(
    [[2, 0, 0], [3, 1, 0], [-2, 0, 0], [0, 2, 1], [0, 4, 1], [5, 0, 0], [5, 0, 0], [0, 0, 0]], dtype=np.float32
)


def glove(words=WORDS, matrix=MATRIX):
    rows = zip(words, matrix, strict=True)
    return "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in rows)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "glove.txt").write_text(glove())
    return tmp_path / "glove.txt"


def check(loaded):
    found = loaded.neighbours(["good", "Film", "42", "unheard", "nothing", "good"], 2)
    assert found == {"good": ["great", "movie"], "Film": ["movie", "great"]}


def test_text_binary_and_matrix_give_the_same_neighbours(source, tmp_path):
    check(vectors.load(source, tmp_path / "cache"))
    entries = (f"{word} ".encode() + struct.pack("<3f", *row) for word, row in zip(WORDS, MATRIX, strict=True))
    (tmp_path / "word2vec.bin").write_bytes(b"8 3\n" + b"".join(entries))
    check(vectors.load(tmp_path / "word2vec.bin", tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "emb.npy", MATRIX)
    (tmp_path / "data" / "words.txt").write_text("\n".join(WORDS))
    check(vectors.load(tmp_path / "data", tmp_path / "cache"))
    check(vectors.load(tmp_path / "data" / "emb.npy", tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_only_words_of_letters_with_a_direction_are_kept_at_unit_length(source, tmp_path):
    loaded = vectors.load(source, tmp_path / "cache")
    assert loaded.words == ["good", "great", "bad", "film", "movie"]
    expected = [
        [1, 0, 0],
        [0.9486833, 0.31622777, 0],
        [-1, 0, 0],
        [0, 0.8944272, 0.4472136],
        [0, 0.9701425, 0.24253562],
    ]
    np.testing.assert_allclose(loaded.matrix_WD, expected, atol=1e-6)


def test_parsed_once_then_mapped(source, tmp_path, monkeypatch):
    vectors.load(source, tmp_path / "cache")
    monkeypatch.setattr(vectors.vector_files, "read", None)
    again = vectors.load(source, tmp_path / "cache")
    assert isinstance(again.matrix_WD, np.memmap)
    assert not again.matrix_WD.flags.writeable
    check(again)


def test_changed_content_is_parsed_anew(source, tmp_path):
    vectors.load(source, tmp_path / "cache")
    source.write_text("one 1 0\ntwo 1 1\n")
    assert vectors.load(source, tmp_path / "cache").neighbours(["one"], 1) == {"one": ["two"]}


def test_a_failed_write_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        vectors.load(source, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_file_leaves_nothing(source, tmp_path):
    source.write_text(glove() + "bad 1 2\n")
    with pytest.raises(DataError, match=r"glove\.txt, line 9"):
        vectors.load(source, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_first_of_two_writers_wins(source, tmp_path, monkeypatch):
    replace = os.replace

    def late(temporary, entry):
        entry.mkdir()
        (entry / "first").touch()
        replace(temporary, entry)

    blocks = [(["good"], MATRIX[:1])]
    monkeypatch.setattr(os, "replace", late)
    vectors._write(tmp_path / "cache" / "entry", blocks, source)
    assert [path.name for path in (tmp_path / "cache").rglob("*")] == ["entry", "first"]


def test_numbers_that_are_not_finite_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors.vector_files, "ROWS", 2)
    np.save(tmp_path / "emb.npy", np.where(MATRIX == 4, np.nan, MATRIX))
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    with pytest.raises(DataError, match=r"emb\.npy, row 5: numbers must be finite"):
        vectors.load(tmp_path / "emb.npy", tmp_path / "cache")


def test_vectors_without_a_usable_word_are_refused(source, tmp_path):
    source.write_text("42 1 1\nnothing 0 0\n")
    with pytest.raises(DataError, match=r"glove\.txt holds no word of letters whose numbers are not all 0"):
        vectors.load(source, tmp_path / "cache")


def test_a_word_is_never_its_own_neighbour_in_any_casing():
    matrix_WD = np.array([[1, 0], [1, 0.01], [1, 0.1], [1, 0.2]], dtype=np.float32)
    loaded = vectors.Vectors(["Good", "good", "Great", "great"], matrix_WD)
    assert loaded.neighbours(["GOOD"], 5) == {"GOOD": ["Great"]}


def unit_vectors(rows, dims):
    matrix_WD = np.random.default_rng(0).normal(size=(rows, dims)).astype(np.float32)
    return matrix_WD / np.linalg.norm(matrix_WD, axis=1, keepdims=True)


@pytest.mark.parametrize(("block", "group"), [(7, 32), (96, 4), (100, 3), (1000, 2)])
def test_blocks_and_groups_give_what_one_product_gives(monkeypatch, block, group):
    matrix_WD = unit_vectors(200, 8)
    words = ["w" + chr(97 + row // 26) + chr(97 + row % 26) for row in range(200)]
    monkeypatch.setattr(vectors, "ROWS", block)
    monkeypatch.setattr(vectors, "GROUP", group)
    monkeypatch.setattr(vectors, "QUERIES", 3)
    found = vectors.Vectors(words, matrix_WD).neighbours(words[:20], 5)
    for row, word in enumerate(words[:20]):
        order = [other for other in np.argsort(-(matrix_WD @ matrix_WD[row])) if other != row]
        assert found[word] == [words[other] for other in order[:5]]


@pytest.mark.parametrize(("columns", "k"), [(4096, 1), (4096, 32), (4096, 127), (4096, 128), (4095, 32), (20, 32)])
def test_the_largest_are_those_of_a_full_sort(columns, k):
    torch.manual_seed(0)
    scores_QR = torch.randn(5, columns)
    values_QK, columns_QK = vectors._largest(scores_QR, k)
    expected = scores_QR.sort(dim=1, descending=True)
    assert torch.equal(values_QK, expected.values[:, :k])
    assert torch.equal(columns_QK, expected.indices[:, :k])
