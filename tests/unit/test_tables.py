"""Files as their makers write them: which is which split, and what is read out of each."""

import gzip
import json

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from tinybert.errors import DataError
from tinybert.tables import Layout, check_unmixed, column_names, split_files, stream

TAGGED = Layout(kind="token_classification", text="tokens")
ASKED = Layout(kind="question_answering", text="question")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", newline="")
    return path


def names(files):
    return [file.name for file in files]


def by_split(directory, layout=None):
    """Names of the files of each split."""
    layout = layout or Layout()
    splits = [*dict.fromkeys(("train", "validation", "test", *layout.splits))]
    return {split: names(split_files(directory, split, layout)) for split in splits}


# Which file is which split --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        (("eng.train", "eng.testa", "eng.testb"), TAGGED),
        (("train.bio2.txt", "dev.bio2.txt", "test.bio2.txt"), TAGGED),
        (("ner.train.conll", "ner.dev.conll", "ner.test.conll"), TAGGED),
        (("cmrc2018_train.json", "cmrc2018_dev.json", "cmrc2018_test.json"), ASKED),
        (("train-v1.1.json", "dev-v1.1.json", "test.json"), ASKED),
    ],
)
def test_names_of_benchmarks_tell_the_split(tmp_path, files, layout):
    for name in (*files, "README", "LICENSE.txt"):
        write(tmp_path / name, "x O\n")
    assert by_split(tmp_path, layout) == {split: [name] for split, name in zip(by_split(tmp_path), files, strict=True)}


def test_a_part_of_a_name_counts_only_where_no_name_begins_with_a_split(tmp_path):
    for name in ("train.csv", "my_test.csv"):
        write(tmp_path / name, "text\nx\n")
    assert by_split(tmp_path) == {"train": ["train.csv"], "validation": [], "test": []}


def test_files_without_a_known_ending_are_tables_of_tagged_words_only(tmp_path):
    for name in ("train", "eng.testa", "rows.csv", "tags.conll"):
        write(tmp_path / name, "text\nx\n")
    assert names(split_files(tmp_path, "train")) == ["rows.csv"]
    assert by_split(tmp_path, TAGGED)["validation"] == []  # a name begins with train


def mnli(directory):
    for name in ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"):
        write(directory / f"{name}.tsv", "text\tlabel\nx\ty\n")
    return directory


def test_what_a_pattern_matches_belongs_to_that_split_alone(tmp_path):
    splits = {"validation": "dev_matched*", "mismatched": "dev_mis*|test_mis*", "test": "test_matched.tsv"}
    assert by_split(mnli(tmp_path), Layout(splits=splits)) == {
        "train": ["train.tsv"],
        "validation": ["dev_matched.tsv"],
        "test": ["test_matched.tsv"],
        "mismatched": ["dev_mismatched.tsv", "test_mismatched.tsv"],
    }
    assert by_split(tmp_path, Layout(splits={"mismatched": "dev_mismatched*"}))["validation"] == ["dev_matched.tsv"]


def test_a_pattern_may_name_a_path_inside_the_source(tmp_path):
    for place in ("a/rows.csv", "b/rows.csv"):
        write(tmp_path / place, "text\nx\n")
    assert split_files(tmp_path, "test", Layout(splits={"test": "b/*"})) == [tmp_path / "b" / "rows.csv"]
    assert split_files(tmp_path, "train", Layout(splits={"test": "b/*"})) == [tmp_path / "a" / "rows.csv"]


def test_a_pattern_that_matches_nothing_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(
        DataError, match=r"data.splits: 'valid\*' of validation matches none of dev_matched.tsv, dev_mismatched.tsv, "
    ):
        split_files(mnli(tmp_path), "train", Layout(splits={"validation": "valid*"}))
    with pytest.raises(DataError, match=r"data.splits: 'dev\*' of test matches none of train.tsv"):
        split_files(tmp_path / "train.tsv", "train", Layout(splits={"test": "dev*"}))


def test_a_file_of_two_patterns_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"dev_mismatched.tsv matches 'dev\*' of validation and '\*mis\*' of other; narrow one of them"
    ):
        split_files(mnli(tmp_path), "train", Layout(splits={"validation": "dev*", "other": "*mis*"}))


@pytest.mark.parametrize("begin", ["dev", "validation"])
def test_different_tests_are_not_mixed(tmp_path, begin):
    files = [tmp_path / f"{begin}_{name}-00000-of-00001.parquet" for name in ("matched", "mismatched")]
    with pytest.raises(
        DataError, match=rf"validation would mix {begin}_matched.*, {begin}_mismatched.*; .* in data.splits, e.g. "
    ):
        check_unmixed(files, "validation")


@pytest.mark.parametrize(
    "files",
    [
        ("dev-00000-of-00002-0ab3c.parquet", "dev-00001-of-00002-f77e1.parquet"),
        ("dev_1.csv", "dev_2.csv.gz"),
        ("validation/a.csv", "validation/b.csv"),
    ],
)
def test_parts_of_one_table_are_no_mixture(tmp_path, files):
    check_unmixed([tmp_path / name for name in files], "validation")


# Tables ---------------------------------------------------------------------------------------------------------------


def test_each_file_gives_the_first_alternative_it_has(tmp_path):
    files = [
        write(tmp_path / "a.csv", "sentence,label\none,x\n"),
        write(tmp_path / "b.csv", "label,text\ny,two\n"),
        write(tmp_path / "c.csv", "text,sentence,label\nno,three,z\n"),
    ]
    assert [row["sentence|text"] for row in stream(files, ["sentence|text", "label"])] == ["one", "two", "three"]
    write(tmp_path / "d.csv", "body,label\nfour,x\n")
    with pytest.raises(DataError, match=r"d.csv: no column 'sentence' or 'text'; it has body, label"):
        list(stream([tmp_path / "d.csv"], ["sentence|text"]))


@pytest.mark.parametrize(("ending", "mark"), [(".tsv", "\t"), (".csv", ",")])
def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_value(tmp_path, ending, mark):
    content = f"\ufeffQuality{mark}#1 String\r\n1{mark}one\r\n0{mark}two\r\n"
    file = write(tmp_path / f"dev{ending}", content)
    assert column_names(file) == ["Quality", "#1 String"]
    assert list(stream([file], ["Quality", "#1 String"])) == [
        {"Quality": "1", "#1 String": "one"},
        {"Quality": "0", "#1 String": "two"},
    ]


def test_quotes_inside_tab_separated_fields_are_plain_characters(tmp_path):
    file = write(tmp_path / "a.tsv", 'text\tlabel\n" not closed\t1\n5" long\t0\n"all"\t1\n')
    assert [row["text"] for row in stream([file], ["text"])] == ['" not closed', '5" long', '"all"']


def test_a_tab_at_the_end_of_lines_shifts_no_column(tmp_path):
    file = write(tmp_path / "a.tsv", "text\tlabel\none\t1\t\ntwo\t0\t\n")
    assert list(stream([file], ["text", "label"])) == [{"text": "one", "label": "1"}, {"text": "two", "label": "0"}]


def test_a_row_wider_than_the_header_is_refused(tmp_path):
    file = write(tmp_path / "a.tsv", "text\tlabel\none\ttwo\t1\nthree\tfour\t0\n")
    with pytest.raises(DataError, match=r"a.tsv: its first row has 3 columns, its header names 2; name each in data.h"):
        column_names(file)


COLA = Layout(text="sentence|text", header=("source", "label", "mark", "sentence"))


def test_a_file_without_a_header_gets_the_names_of_the_form(tmp_path):
    plain = write(tmp_path / "train.tsv", "gj04\t1\t\tThey drank.\ngj04\t0\t*\tDrank they the.\n")
    headed = write(tmp_path / "test.tsv", "index\tsentence\n0\tBill whistled.\n")
    assert list(stream([plain], ["sentence", "label"], None, COLA)) == [
        {"sentence": "They drank.", "label": "1"},
        {"sentence": "Drank they the.", "label": "0"},
    ]
    assert column_names(headed, COLA) == ["index", "sentence"]
    assert [row["sentence"] for row in stream([plain, headed], ["sentence"], None, COLA)][2] == "Bill whistled."


def test_a_gzipped_csv_without_a_header(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b'"one, two",1\nthree,0\n'))
    layout = Layout(header=("text", "label"))
    assert [row["text"] for row in stream([tmp_path / "a.csv.gz"], ["text"], None, layout)] == ["one, two", "three"]


def test_a_header_of_another_length_is_refused(tmp_path):
    file = write(tmp_path / "train.tsv", "gj04\t1\tThey drank.\n")
    with pytest.raises(DataError, match=r"train.tsv: its first line has 3 columns, data.header names 4; name each"):
        column_names(file, COLA)


MRPC = 'Quality\t#1 String\t#2 String\n1\t" one\ttwo\n0\tthree\tfour\n'


def test_a_txt_file_with_tabs_is_a_table_where_its_columns_are_known(tmp_path):
    file = write(tmp_path / "msr_paraphrase_train.txt", MRPC)
    named = Layout(text="sentence1|#1 String")
    assert [row["#1 String"] for row in stream([file], ["#1 String"], None, named)] == ['" one', "three"]
    headless = write(tmp_path / "train.txt", "one\ttwo\t1\n")
    lcqmc = Layout(text="text_a", header=("text_a", "text_b", "label"))
    assert list(stream([headless], ["text_b", "label"], None, lcqmc)) == [{"text_b": "two", "label": "1"}]


def test_a_txt_file_of_plain_text_keeps_its_tabs(tmp_path):
    file = write(tmp_path / "corpus.txt", "one\ttwo\nthree\n")
    assert list(stream([file], ["text"])) == [{"text": "one\ttwo"}, {"text": "three"}]


def test_lists_of_ids_beside_the_tables_are_none(tmp_path):
    for name in ("train.tsv", "dev.tsv", "dev_ids.tsv"):
        write(tmp_path / name, "1\t2\n")
    assert by_split(tmp_path) == {"train": ["train.tsv"], "validation": ["dev.tsv"], "test": []}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "Text,Label\nx,y\n", "it has Label, Text; did you mean 'Text'\\?"),
        ("a.csv", " text ,label\nx,y\n", "it has  text , label; did you mean ' text '\\?"),
        ("a.csv", "text;label\nx;y\n", "it has text;label; ';' parts its columns: save it with commas between"),
        ("a.csv", "text\tlabel\nx\ty\n", "tabs part its columns: let its name end in .tsv"),
        ("a.tsv", "text,label\nx,y\n", "',' parts its columns: let its name end in .csv"),
        ("a.json", json.dumps({"version": "1", "data": []}), "set data.kind to question_answering"),
        ("a.csv", "body,label\nx,y\n", "it has body, label$"),
        ("a.csv", "body\nx\n", "it has body$"),
    ],
)
def test_what_may_be_meant_is_said_where_a_column_is_missing(tmp_path, name, content, said):
    with pytest.raises(DataError, match=f"{name}: no column 'text'; .*{said}"):
        list(stream([write(tmp_path / name, content)], ["text"]))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.json", "a.csv.gz"])
def test_utf_16_is_named(tmp_path, name):
    content = "text,label\nx,y\n".encode("utf-16")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=f"{name}: is UTF-16, which Excel calls Unicode text; save it as UTF-8"):
        list(stream([tmp_path / name], ["text"]))


def test_rows_a_line_may_be_called_json(tmp_path):
    rows = [{"label": "108", "sentence": "one", "words": ["a"]}, {"label": "104", "sentence": "two", "words": []}]
    file = write(tmp_path / "dev.json", "".join(json.dumps(row) + "\n" for row in rows))
    assert list(stream([file], ["label", "sentence", "words"])) == rows


def test_numbers_of_classes_get_their_names_in_lists_too(tmp_path):
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-X"]))})
    rows = {"tokens": [["a", "b"], ["c"]], "ner_tags": [[1, 0], [-1]]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    read = stream([tmp_path / "a.parquet"], ["tokens", "tags|ner_tags"], None, TAGGED)
    assert [row["tags|ner_tags"] for row in read] == [["B-X", "O"], [-1]]


# Tagged words ---------------------------------------------------------------------------------------------------------

CONLL = """-DOCSTART- -X- -X- O

EU NNP I-NP B-ORG
rejects VBZ I-VP O

Peter NNP I-NP B-PER
Blackburn NNP I-NP I-PER
"""
SENTENCES = [
    {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
    {"tokens": ["Peter", "Blackburn"], "tags": ["B-PER", "I-PER"]},
]


@pytest.mark.parametrize("name", ["eng.train", "train.txt", "a.conll", "a.bio", "a.bio2", "a.iob", "a.iob2", "train"])
@pytest.mark.parametrize("change", [(" ", " "), (" ", "  "), (" ", "\t"), ("\n", "\r\n")])
def test_words_and_tags_are_the_first_and_the_last_column(tmp_path, name, change):
    file = write(tmp_path / name, CONLL.replace(*change))
    assert list(stream([file], ["tokens", "tags"], None, TAGGED)) == SENTENCES


def test_gzipped_tagged_words(tmp_path):
    (tmp_path / "eng.testa.gz").write_bytes(gzip.compress(("\ufeff" + CONLL).encode()))
    assert list(stream([tmp_path / "eng.testa.gz"], ["tokens", "tags"], None, TAGGED)) == SENTENCES


def test_a_space_of_another_script_is_a_word(tmp_path):
    file = write(tmp_path / "train.txt", "\u4e2d O\n\u3000 O\n\u56fd B-X\n\t\n\u00a0\tO\n")
    read = list(stream([file], ["tokens", "tags"], None, TAGGED))
    assert [row["tokens"] for row in read] == [["\u4e2d", "\u3000", "\u56fd"], ["\u00a0"]]


def test_lines_with_other_columns_are_refused_with_their_number(tmp_path):
    file = write(tmp_path / "train.txt", "EU B-ORG\nrejects\n")
    with pytest.raises(DataError, match=r"train.txt: line 2 has 1 columns, those before 2; write a word and its tag"):
        list(stream([file], ["tokens"], None, TAGGED))


def test_a_header_over_tagged_words_is_refused(tmp_path):
    file = write(tmp_path / "train.txt", "Word\tNER\nEU\tB-ORG\n")
    with pytest.raises(DataError, match=r"train.txt: its first line names columns \(Word, NER\), not a word; take it"):
        list(stream([file], ["tokens"], None, TAGGED))


def test_words_without_tags_have_no_column_of_tags(tmp_path):
    file = write(tmp_path / "test.txt", "EU\nrejects\n\nPeter\n")
    assert [row["tokens"] for row in stream([file], ["tokens"], None, TAGGED)] == [["EU", "rejects"], ["Peter"]]
    with pytest.raises(DataError, match=r"test.txt: no column 'tags'; it has tokens"):
        list(stream([file], ["tags"], None, TAGGED))


def test_another_encoding_is_refused(tmp_path):
    (tmp_path / "ned.train").write_bytes("Br\u00fcssel B-LOC\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"ned.train: cannot be read as train: 'utf-8' codec can't decode"):
        list(stream([tmp_path / "ned.train"], ["tokens"], None, TAGGED))


# Questions and contexts -----------------------------------------------------------------------------------------------

CONTEXT = " The  Panthers\r\nlost 308 points.\t"
QUESTIONS = [
    {"id": "1", "question": "How many?", "answers": [{"text": "308", "answer_start": 21}] * 2},
    {"id": "2", "question": "Who?", "is_impossible": True, "answers": [], "plausible_answers": [{"text": "x"}]},
]
SQUAD = {"version": "v2.0", "data": [{"title": "A", "paragraphs": [{"context": CONTEXT, "qas": QUESTIONS}]}]}
COLUMNS = ["id", "question", "context", "answers"]


def test_squad_is_read_with_contexts_as_they_are(tmp_path):
    file = write(tmp_path / "dev-v2.0.json", json.dumps(SQUAD, indent=1))
    first, second = stream([file], COLUMNS, None, ASKED)
    assert first["context"] == second["context"] == CONTEXT
    assert (first["id"], second["question"]) == ("1", "Who?")
    assert first["answers"] == {"text": ["308", "308"], "answer_start": [21, 21]}
    assert CONTEXT[21:24] == "308"
    assert second["answers"] == {"text": [], "answer_start": []}
    assert list(stream([file], ["id"], {"title": "B"}, ASKED)) == []


def test_cmrc_of_the_challenge_has_answers_without_places(tmp_path):
    asked = [{"query_id": "q", "query_text": "\u8c01\uff1f", "answers": ["\u8303", "\u9662"]}]
    article = {"context_id": "c", "context_text": "\u662f\u8303\u5ef7\u9882\u3002", "title": "t", "qas": asked}
    file = write(tmp_path / "train.json", json.dumps([article], ensure_ascii=False))
    assert list(stream([file], COLUMNS, None, ASKED)) == [
        {
            "id": "q",
            "question": "\u8c01\uff1f",
            "context": "\u662f\u8303\u5ef7\u9882\u3002",
            "answers": {"text": ["\u8303", "\u9662"], "answer_start": [1, -1]},
        }
    ]


def test_questions_of_a_hidden_test_have_no_column_of_answers(tmp_path):
    hidden = {"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "?"}]}]}]}
    file = write(tmp_path / "test.json", json.dumps(hidden))
    assert column_names(file, ASKED) == ["id", "title", "question", "context"]
    assert [row["question"] for row in stream([file], ["question"], None, ASKED)] == ["?"]
    hidden["data"][0]["paragraphs"][0]["qas"].append({"id": "2", "question": "?", "answers": []})
    write(file, json.dumps(hidden))
    with pytest.raises(DataError, match=r"test.json: question '1' has no answers; add them, \[\] where there is none"):
        list(stream([file], ["question"], None, ASKED))


@pytest.mark.parametrize("name", ["a.json", "b.json", "c.jsonl", "d.parquet"])
def test_rows_with_the_same_columns_do_as_well(tmp_path, name):
    answers = [{"text": ["308"], "answer_start": [21]}, {"text": [], "answer_start": []}]
    rows = [{"id": str(n), "question": "?", "context": CONTEXT, "answers": a} for n, a in enumerate(answers)]
    if name == "d.parquet":
        Dataset.from_list(rows).to_parquet(tmp_path / name)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write(tmp_path / name, json.dumps(rows) if name == "a.json" else lines)
    assert list(stream([tmp_path / name], COLUMNS, None, ASKED)) == rows


def test_a_paragraph_without_context_is_refused(tmp_path):
    content = {"data": [{"paragraphs": [{"qas": QUESTIONS}]}]}
    file = write(tmp_path / "a.json", json.dumps(content))
    with pytest.raises(DataError, match=r"a.json: question '1' has no context; add it"):
        list(stream([file], ["question"], None, ASKED))
