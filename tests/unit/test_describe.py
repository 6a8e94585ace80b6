"""What people are told of their data before anything is trained on them."""

import pytest

from tinybert import samples
from tinybert.data import RowWriter, TaskData, write_manifest
from tinybert.data_config import DataConfig
from tinybert.describe import describe_prepared, script_of
from tinybert.kinds import kind_of


@pytest.fixture
def described(tmp_path):
    """Writes (text, pair, label) rows of each split as a prepared data set, and describes it section by section."""

    def described(kind, labels, splits, tokenizer=None, test_is_validation=False, met=0, **fields):
        config = DataConfig(source="file:rows.csv", kind=kind, **fields)
        for split, rows in splits.items():
            with RowWriter(tmp_path / f"{split}.arrow", kind_of(kind)) as writer:
                for number, row in enumerate(rows):
                    writer.add(*row, number)
        told = {"kind": kind, "metric": config.score, "test_is_validation": test_is_validation}
        others = [split.removeprefix("test_") for split in splits if split.startswith("test_")]
        told |= {
            "dropped": {"train": {"duplicates": 1234, "bad_rows": 2}},
            "problems": ["a problem that was met"] * met,
        }
        write_manifest(tmp_path, labels, config.max_length, other_tests=others, **told)
        text = describe_prepared(TaskData(tmp_path), config, tokenizer)
        return dict(part.split("\n\n", 1) for part in text.removeprefix("## ").split("\n## "))

    return described


def cells(section):
    """The rows of a section's table."""
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


ROWS = [("good film", None, 1), ("bad film", None, 0)]


def test_rows_and_labels_of_each_split(described):
    rows = [("good film", None, 1)] * 30 + [("bad film", None, 0)] * 10
    found = described("classification", ["bad", "good"], {"train": rows, "validation": ROWS, "test": ROWS[:1] * 12})
    assert cells(found["Rows"]) == [
        ["split", "rows", "bad rows dropped", "duplicates dropped"],
        ["train", "40", "2", "1,234"],
        ["validation", "2", "0", "0"],
        ["test", "12", "0", "0"],
    ]
    assert cells(found["Labels"]) == [
        ["label", "train", "validation", "test"],
        ["bad", "10 (25.0%)", "1 (50.0%) few", "0 (0.0%) few"],
        ["good", "30 (75.0%)", "1 (50.0%) few", "12 (100.0%)"],
    ]
    assert cells(found["Length in characters"])[1] == ["train", "8", "9", "9", "9"]
    assert "- training rows: file:rows.csv" in found["Data"]
    assert "Length in tokens" not in found
    assert found["Problems"].strip() == "- test has nothing of bad"


def test_three_rows_of_each_split_are_shown_with_their_labels(described):
    rows = [(f"one {n}", f"two\n{n}" + "x" * 300 * (n == 4), n % 2) for n in range(5)]
    found = described("classification", ["bad", "good"], {"train": rows, "validation": rows[:1], "test": rows[:2]})
    assert found["Examples of train"].splitlines() == [
        "- one 0 / two 0",
        "  -> bad",
        "- one 2 / two 2",
        "  -> bad",
        f"- one 4 / two 4{'x' * 235}...",
        "  -> bad",
    ]
    assert found["Examples of validation"].splitlines() == ["- one 0 / two 0", "  -> bad"]
    assert found["Examples of test"].splitlines()[2:] == ["- one 1 / two 1", "  -> good"]


def test_few_and_unbalanced_rows_are_problems(described):
    rows = [("good film", None, 1)] * 301 + [("bad film", None, 0)] * 3
    found = described(
        "classification", ["bad", "good"], {"train": rows, "validation": ROWS, "test": ROWS}, test_is_validation=True
    )
    assert found["Problems"].strip().splitlines() == [
        "- no rows are left to test on: models are compared on the rows that checkpoints are chosen on",
        "- under 10 training rows of bad (3)",
        "- labels are very unbalanced: 301 of good, 3 of bad",
    ]


def test_what_contradicts_itself_is_a_problem(described):
    rows = [("good film", None, 1), ("good film", None, 0), ("a film", None, 2), ("good film", None, 2)] * 10
    splits = {"train": rows, "validation": [*ROWS, ("a film", None, 2)], "test": rows[:2]}
    found = described("classification", ["Bad", "bad", "good"], splits, met=1)
    assert found["Problems"].strip().splitlines() == [
        "- a problem that was met",
        "- labels differ in case only: Bad, bad",
        "- 1 texts of train stand with different labels, e.g. 'good film'",
        "- test has nothing of good",
        "- 1 texts of test stand with different labels, e.g. 'good film'",
    ]


def test_problems_of_rows_that_serve_twice_are_told_once(described, tokenizer):
    rows = [("good film", None, 1)] * 20 + [("a " * 40, None, 0)] * 20
    splits = {"train": rows, "validation": rows[20:], "test": rows[20:]}
    found = described("classification", ["bad", "good"], splits, tokenizer, test_is_validation=True, max_length=16)
    assert [line for line in found["Problems"].splitlines() if "validation" in line and "no rows" not in line] == [
        "- validation has nothing of good",
        "- 100.0% of the rows of validation are cut at 16 tokens: raise data.max_length",
    ]
    assert "of test" not in found["Problems"]
    assert "test has" not in found["Problems"]


def test_numbers_are_described_by_where_they_lie(described):
    rows = [(f"a {n}", "b", n / 4) for n in range(21)]
    found = described("regression", ["score"], {"train": rows, "validation": rows, "test": rows}, text_pair="text_pair")
    assert cells(found["Labels"])[:2] == [
        ["split", "least", "5%", "median", "95%", "most"],
        ["train", "0", "0.25", "2.5", "4.75", "5"],
    ]
    assert "None was found." in found["Problems"]


@pytest.mark.parametrize(
    ("character", "script"),
    [
        ("a", "Latin"),
        ("\u00df", "Latin"),
        ("\u0436", "Cyrillic"),
        ("\u4e2d", "Han"),
        ("\u3042", "Hiragana"),
        ("\uff76", "Katakana"),
        ("\uff21", "Latin"),
        ("\ud55c", "Hangul"),
        ("\u0639", "Arabic"),
        ("\u3001", None),
        ("7", None),
        (" ", None),
        ("\u02b0", None),
        ("\x00", None),
    ],
)
def test_the_script_of_a_letter(character, script):
    assert script_of(character) == script


def test_scripts_are_shares_of_the_letters(described):
    train = [("abc \u4e2d, 7", None, 0), ("x" * 9996, None, 1)]
    found = described("classification", ["bad", "good"], {"train": train, "validation": ROWS, "test": ROWS})
    assert cells(found["Scripts"]) == [
        ["script", "train", "validation", "test"],
        ["Latin", "100.0%", "100.0%", "100.0%"],
        ["Han", "under 0.1%", "0.0%", "0.0%"],
    ]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Knows the words good, bad, film and a few more; nothing else."""
    from tinybert.models import load_tokenizer

    directory = tmp_path_factory.mktemp("teacher")
    samples.write_teacher(directory)
    return load_tokenizer(directory)


def test_cut_and_unknown_tokens_are_counted(described, tokenizer):
    """With its two special tokens, a text of n words has n + 2 tokens."""
    train = [(" ".join(["film"] * n), None, n % 2) for n in range(1, 21)]
    tests = [("\u4e2d film", None, 0), ("film film", None, 1)]
    splits = {"train": train, "validation": ROWS, "test": tests}
    found = described("classification", ["bad", "good"], splits, tokenizer, max_length=12)
    assert cells(found["Length in tokens"])[1] == ["train", "4", "12", "21", "22"]
    assert "- train: 50.0% of the rows are cut at 12 tokens; 0.00% tokens unknown" in found["Length in tokens"]
    assert "- test: 0.0% of the rows are cut at 12 tokens; 12.50% tokens unknown" in found["Length in tokens"]
    assert "- 50.0% of the rows of train are cut at 12 tokens: raise data.max_length" in found["Problems"]
    assert "- 12.5% of the tokens of test are unknown; does the teacher read this language?" in found["Problems"]


def test_long_contexts_are_counted_in_windows(described, tokenizer):
    """A question of one word and three special tokens leave a window 8 of 12 tokens; the second holds the last four
    again."""
    contexts = [" ".join(["film"] * count) for count in (8, 9)]
    rows = [("film", context, [{"text": "film", "start": 0}]) for context in contexts]
    rows[1][2][0]["start"] = 2
    splits = {"train": rows, "validation": rows[:1], "test": rows[:1]}
    found = described("question_answering", ["start", "end"], splits, tokenizer, max_length=12)
    assert "- train: 1.50 windows a row at 12 tokens; 0.00% tokens unknown" in found["Length in tokens"]
    assert "- 1 answers of train do not stand at their place in the context" in found["Problems"]
    assert "are cut" not in found["Problems"]
    assert [row[0] for row in cells(found["Labels"])] == ["label", "answerable"]
    assert "  -> film" in found["Examples of train"]


def test_words_that_the_tokenizer_drops_are_named(described, tokenizer):
    rows = [("film \u200b good", None, [0, 1, 0])] * 2
    splits = {"train": rows, "validation": rows, "test": rows}
    found = described("token_classification", ["O", "B-X"], splits, tokenizer)
    assert r"- 1 words of train give the tokenizer nothing to tag, e.g. '\u200b'" in found["Problems"]
    assert cells(found["Labels"])[1] == ["X", "2 (100.0%) few", "2 (100.0%) few", "2 (100.0%) few"]
