"""Word vectors: reading, caching, refusing, and the nearest words."""

import gzip
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinybert import vectors
from tinybert.errors import DataError

WORDS = ["good", "great", "bad", "film", "movie", "42", "co-op", "nothing"]
MATRIX = np.array(
    [[2, 0, 0], [3, 1, 0], [-2, 0, 0], [0, 2, 1], [0, 4, 1], [5, 0, 0], [5, 0, 0], [0, 0, 0]], dtype=np.float32
)


def glove(words=WORDS, matrix=MATRIX):
    rows = zip(words, matrix, strict=True)
    return "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in rows)


def write_matrix(directory, suffix=".parquet", words=WORDS, matrix=MATRIX):
    directory.mkdir(exist_ok=True)
    np.save(directory / "emb.npy", matrix)
    index = directory / f"index{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"index": words, "rank": range(len(words))}), index)
    elif suffix == ".txt":
        index.write_text("\n".join(words) + "\n")
    else:
        index.write_text(json.dumps({word: row for row, word in enumerate(words)}))
    return directory


def check(loaded):
    found = loaded.neighbours(["good", "Film", "42", "unheard", "nothing", "good"], 2)
    assert found == {"good": ["great", "movie"], "Film": ["movie", "great"]}


def test_glove_text(tmp_path):
    (tmp_path / "glove.txt").write_text(glove())
    check(vectors.load(tmp_path / "glove.txt", tmp_path / "cache"))


def test_compressed_glove_text(tmp_path):
    (tmp_path / "glove.txt.gz").write_bytes(gzip.compress(glove().encode()))
    check(vectors.load(tmp_path / "glove.txt.gz", tmp_path / "cache"))


@pytest.mark.parametrize("suffix", [".parquet", ".txt", ".json"])
def test_matrix_and_vocabulary(tmp_path, suffix):
    directory = write_matrix(tmp_path / "data", suffix)
    check(vectors.load(directory, tmp_path / "cache"))
    check(vectors.load(directory / "emb.npy", tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_parsed_once_then_mapped(tmp_path, monkeypatch):
    (tmp_path / "glove.txt").write_text(glove())
    vectors.load(tmp_path / "glove.txt", tmp_path / "cache")
    monkeypatch.setattr(vectors, "_read_text", None)
    again = vectors.load(tmp_path / "glove.txt", tmp_path / "cache")
    assert isinstance(again.matrix_WD, np.memmap)
    np.testing.assert_allclose(np.linalg.norm(again.matrix_WD, axis=1), 1, rtol=1e-6)
    check(again)


def test_changed_content_is_parsed_anew(tmp_path):
    source = tmp_path / "glove.txt"
    source.write_text(glove())
    vectors.load(source, tmp_path / "cache")
    source.write_text("one 1 0\ntwo 1 1\n")
    assert vectors.load(source, tmp_path / "cache").neighbours(["one"], 1) == {"one": ["two"]}


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "glove.txt").write_text(glove())

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        vectors.load(tmp_path / "glove.txt", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_words_with_spaces_do_not_shift_the_numbers(tmp_path):
    (tmp_path / "glove.txt").write_text("good 1 2 3\nat the end 1 2 4\nbad 1 2 5\n")
    loaded = vectors.load(tmp_path / "glove.txt", tmp_path / "cache")
    assert loaded.words == ["good", "bad"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bad 1 2", "found 2 numbers, the first line has 3"),
        ("bad 1 2 3 4", "found 4 numbers, the first line has 3"),
        ("bad 1 x 3", "could not convert"),
        ("bad 1 nan 3", "not finite"),
        ("", "found 0 numbers"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    (tmp_path / "glove.txt").write_text(f"good 1 2 3\n{line}\ngreat 1 2 3\n")
    with pytest.raises(DataError, match=rf"glove\.txt, line 2: .*{message}"):
        vectors.load(tmp_path / "glove.txt", tmp_path / "cache")


def test_other_unreadable_text_is_refused(tmp_path):
    source = tmp_path / "glove.txt"
    source.write_bytes(b"good 1 2\n\xff\xfe 1 2\n")
    with pytest.raises(DataError, match="line 2"):
        vectors.load(source, tmp_path / "cache")
    source.write_text("")
    with pytest.raises(DataError, match="empty"):
        vectors.load(source, tmp_path / "cache")
    packed = tmp_path / "glove.txt.gz"
    packed.write_bytes(gzip.compress(glove().encode() * 99)[:-20])
    with pytest.raises(DataError, match="cut short"):
        vectors.load(packed, tmp_path / "cache")
    with pytest.raises(DataError, match="does not exist"):
        vectors.load(tmp_path / "absent", tmp_path / "cache")


def test_a_matrix_without_its_vocabulary_is_refused(tmp_path):
    directory = write_matrix(tmp_path / "data")
    (directory / "index.parquet").unlink()
    with pytest.raises(DataError, match=r"one vocabulary file .* expected, found none"):
        vectors.load(directory, tmp_path / "cache")
    write_matrix(directory, ".txt", words=WORDS[:-1])
    with pytest.raises(DataError, match=r"7 words but emb\.npy has 8 rows"):
        vectors.load(directory, tmp_path / "cache")


def test_a_vocabulary_entry_that_is_no_word_is_named(tmp_path):
    directory = write_matrix(tmp_path / "data", words=[*WORDS[:3], None, *WORDS[4:]])
    with pytest.raises(DataError, match=r"index\.parquet, line 4: found None"):
        vectors.load(directory, tmp_path / "cache")


def test_pickles_and_strange_matrices_are_refused(tmp_path):
    directory = write_matrix(tmp_path / "data", matrix=np.array([{}] * 8, dtype=object))
    with pytest.raises(DataError, match="no plain numpy array"):
        vectors.load(directory, tmp_path / "cache")
    write_matrix(directory, matrix=np.zeros(8))
    with pytest.raises(DataError, match="expected a matrix of floats"):
        vectors.load(directory, tmp_path / "cache")
    write_matrix(directory, matrix=np.where(MATRIX == 4, np.nan, MATRIX))
    with pytest.raises(DataError, match="row 5"):
        vectors.load(directory, tmp_path / "cache")


def test_a_word_is_never_its_own_neighbour_in_any_casing():
    matrix_WD = np.array([[1, 0], [1, 0.01], [1, 0.1], [1, 0.2]], dtype=np.float32)
    loaded = vectors.Vectors(["Good", "good", "Great", "great"], matrix_WD)
    assert loaded.neighbours(["GOOD"], 5) == {"GOOD": ["Great"]}


def test_blocks_give_what_one_product_gives(monkeypatch):
    rng = np.random.default_rng(0)
    matrix_WD = rng.normal(size=(200, 8)).astype(np.float32)
    matrix_WD /= np.linalg.norm(matrix_WD, axis=1, keepdims=True)
    words = ["w" + chr(97 + row // 26) + chr(97 + row % 26) for row in range(200)]
    monkeypatch.setattr(vectors, "ROWS", 7)
    monkeypatch.setattr(vectors, "QUERIES", 3)
    found = vectors.Vectors(words, matrix_WD).neighbours(words[:20], 5)
    for row, word in enumerate(words[:20]):
        order = [other for other in np.argsort(-(matrix_WD @ matrix_WD[row])) if other != row]
        assert found[word] == [words[other] for other in order[:5]]
