"""Every benchmark as its authors, and the hub, give it out: what is read of it, and which defects are refused."""

import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from tinybert.benchmark_table import BENCHMARKS
from tinybert.config import DistillConfig
from tinybert.data import TaskData
from tinybert.errors import DataError
from tinybert.stages import prepare

ROWS = {
    "train": range(24),
    "validation": range(24, 36),
    "test": range(36, 48),
    "mismatched": range(48, 60),
    "hidden": range(60, 66),
}
"""Numbers of the rows of each split; what is hidden is a test without labels."""


class Layout(NamedTuple):
    """How the files of one benchmark are laid out."""

    benchmark: str
    files: dict[str, tuple[str, str]]
    """Path and columns of each split."""
    columns: tuple[str | None, ...]
    """Of the text, the second text, the label."""
    written: tuple[Any, ...] = ()
    """Labels as they stand in the files, in turn."""
    understood: tuple[Any, ...] = ()
    """What they are to be understood as; rows with None are left out."""
    beside: dict[str, str] = {}
    """Other files of the folder, by their paths: nothing of them may be read."""
    has_header: bool = True
    names: tuple[str, ...] = ()
    """Of classes that a Parquet file has by number."""

    @property
    def kind(self) -> str:
        return BENCHMARKS[self.benchmark].data.get("kind", "classification")

    def __str__(self) -> str:
        return f"{self.benchmark}-{self.files['train'][0]}".replace("/", "-")


def three(ending: str, columns: str, hidden: str | None = None, headed: bool = True) -> dict[str, tuple[str, str]]:
    files = {"train": (f"train{ending}", columns), "validation": (f"dev{ending}", columns)}
    return files | ({"hidden": (f"test{ending}", hidden)} if hidden else {})


def shards(columns: str, *splits: str, path: str = "{}-00000-of-00001.parquet") -> dict[str, tuple[str, str]]:
    return {split: (path.format("test" if split == "hidden" else split), columns) for split in splits}


ALL = ("train", "validation", "hidden")
NLI = ("entailment", "neutral", "contradiction")
RTE = ("entailment", "not_entailment")
STSB = "index genre filename year old_index source1 source2 sentence1 sentence2"
MNLI = "index promptID pairID genre sentence1_binary_parse sentence1_parse sentence1 sentence2"
PAIR = "sentence1 sentence2 label"
PAIR_COLUMNS = ("sentence1", "sentence2", "label")
OTHER = {"text": "no", "sentence": "no", "sentence1": "no", "sentence2": "no", "gold_label": "neutral", "label": "100"}
OTHER_ROW = json.dumps(OTHER) + "\n"

GLUE = [
    Layout(
        "glue/cola",
        three(".tsv", "source label star sentence", "index sentence"),
        ("sentence", None, "label"),
        ("0", "1"),
        ("unacceptable", "acceptable"),
        {"original/raw/in_domain_dev.tsv": "gj04\t1\t\tNo.\n", "original/raw/in_domain_train.tsv": "gj04\t1\t\tNo.\n"},
        has_header=False,
    ),
    Layout(
        "glue/sst2",
        three(".tsv", "sentence label", "index sentence"),
        ("sentence", None, "label"),
        ("0", "1"),
        ("negative", "positive"),
        {"original/README.txt": "Movie reviews\n", "original/SOStr.txt": "no|no\n"},
    ),
    Layout(
        "glue/mrpc",
        three(".tsv", "Quality #1_ID #2_ID #1_String #2_String", "index #1_ID #2_ID #1_String #2_String"),
        ("#1_String", "#2_String", "Quality"),
        ("0", "1"),
        ("not_equivalent", "equivalent"),
        {
            "dev_ids.tsv": "1089874\t1089925\n",
            "msr_paraphrase_train.txt": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tno\tno\n",
        },
    ),
    Layout(
        "glue/mrpc",
        {
            split: (f"msr_paraphrase_{split}.txt", "Quality #1_ID #2_ID #1_String #2_String")
            for split in ("train", "test")
        },
        ("#1_String", "#2_String", "Quality"),
        ("0", "1"),
        ("not_equivalent", "equivalent"),
    ),
    Layout(
        "glue/stsb",
        three(".tsv", f"{STSB} score", STSB),
        ("sentence1", "sentence2", "score"),
        beside={
            "original/sts-dev.tsv": "main\tnews\t2012\t1\t4.0\tno\tno\n",
            "LICENSE.txt": "no\n",
            "readme.txt": "no\n",
        },
    ),
    Layout(
        "glue/qqp",
        three(".tsv", "id qid1 qid2 question1 question2 is_duplicate", "id question1 question2"),
        ("question1", "question2", "is_duplicate"),
        ("0", "1"),
        ("not_duplicate", "duplicate"),
        {"original/quora_duplicate_questions.tsv": "id\tquestion1\tquestion2\tis_duplicate\n0\tno\tno\t0\n"},
    ),
    Layout(
        "glue/mnli",
        {
            "train": ("train.tsv", f"{MNLI} label1 gold_label"),
            "validation": ("dev_matched.tsv", f"{MNLI} label1 label2 label3 label4 label5 gold_label"),
            "mismatched": ("dev_mismatched.tsv", f"{MNLI} label1 label2 label3 label4 label5 gold_label"),
            "hidden": ("test_matched.tsv", MNLI),
        },
        ("sentence1", "sentence2", "gold_label"),
        (*NLI, "-"),
        (*NLI, None),
        {
            "test_mismatched.tsv": MNLI.replace(" ", "\t") + "\n" + "no\t" * 7 + "no\n",
            "original/multinli_1.0_train.jsonl": OTHER_ROW,
            "original/multinli_1.0_dev_matched.jsonl": OTHER_ROW,
            "original/multinli_1.0_dev_mismatched.jsonl": OTHER_ROW,
        },
    ),
    Layout(
        "glue/qnli",
        three(".tsv", "index question sentence label", "index question sentence"),
        ("question", "sentence", "label"),
        RTE,
        RTE,
    ),
    Layout("glue/rte", three(".tsv", f"index {PAIR}", "index sentence1 sentence2"), PAIR_COLUMNS, RTE, RTE),
    Layout(
        "glue/wnli", three(".tsv", f"index {PAIR}", "index sentence1 sentence2"), PAIR_COLUMNS, ("0", "1"), RTE[::-1]
    ),
]
CLUE = [
    Layout("clue/afqmc", three(".json", PAIR, "id sentence1 sentence2"), PAIR_COLUMNS, ("0", "1"), ("0", "1")),
    Layout(
        "clue/tnews",
        three(".json", "label label_desc sentence keywords", "id sentence keywords"),
        ("sentence", None, "label"),
        ("108", "104", "106"),
        ("108", "104", "106"),
        {"labels.json": OTHER_ROW, "test1.0.json": '{"id": 0, "sentence": "no", "keywords": ""}\n'},
    ),
    Layout(
        "clue/tnews",
        three(".tsv", "sentence label"),
        ("sentence", None, "label"),
        ("news_edu", "news_car"),
        ("news_edu", "news_car"),
        {"labels.json": OTHER_ROW},
        has_header=False,
    ),
    Layout(
        "clue/iflytek",
        three(".json", "label label_des sentence", "id sentence"),
        ("sentence", None, "label"),
        ("0", "7", "118"),
        ("0", "7", "118"),
        {"labels.json": OTHER_ROW},
    ),
    Layout("clue/cmnli", three(".json", PAIR, "id sentence1 sentence2"), PAIR_COLUMNS, (*NLI, "-"), (*NLI, None)),
    Layout(
        "clue/ocnli",
        {
            "train": ("train.50k.json", f"level {PAIR} label0 genre prem_id id"),
            "validation": ("dev.json", f"level {PAIR} label0 genre prem_id id"),
            "hidden": ("test.json", "id sentence1 sentence2 genre"),
        },
        PAIR_COLUMNS,
        (*NLI, "-"),
        (*NLI, None),
    ),
    Layout(
        "clue/csl",
        three(".json", "id abst keyword label", "id abst keyword"),
        ("keyword", "abst", "label"),
        ("0", "1"),
        ("0", "1"),
    ),
    Layout(
        "chnsenticorp",
        {
            "train": ("train.tsv", "label text_a"),
            "validation": ("dev.tsv", "qid label text_a"),
            "test": ("test.tsv", "qid label text_a"),
        },
        ("text_a", None, "label"),
        ("0", "1"),
        ("negative", "positive"),
    ),
    *(
        Layout(
            "lcqmc",
            {split: (f"{name}{ending}", "text_a text_b label") for split, name in names.items()},
            ("text_a", "text_b", "label"),
            ("0", "1"),
            ("different", "same"),
            has_header=has_header,
        )
        for names in ({"train": "train", "validation": "dev", "test": "test"},)
        for ending, has_header in ((".txt", False), (".tsv", True))
    ),
]
IOB1 = ("I-PER", "I-PER", "O", "I-LOC")
BIO = ("B-PER", "I-PER", "O", "B-LOC")
QA = ("question", "context", "answers")
TAGGED = [
    Layout(
        "conll2003",
        {
            "train": ("eng.train", "tokens pos chunk tags"),
            "validation": ("eng.testa", "tokens pos chunk tags"),
            "test": ("eng.testb", "tokens pos chunk tags"),
        },
        ("tokens", None, "tags"),
        (IOB1,),
        (BIO,),
        {"README": "CoNLL 2003\n"},
    ),
    Layout(
        "conll2003",
        {
            split: (f"{name}.bio2.txt", "tokens tags")
            for split, name in zip(ROWS, ("train", "dev", "test"), strict=False)
        },
        ("tokens", None, "tags"),
        (BIO,),
        (BIO,),
    ),
    Layout(
        "msra-ner",
        {"train": ("msra_train_bio.txt", "tokens tags"), "test": ("msra_test_bio.txt", "tokens tags")},
        ("tokens", None, "tags"),
        (BIO,),
        (BIO,),
    ),
]
ASKED = [
    Layout("squad", {"train": ("train-v1.1.json", ""), "validation": ("dev-v1.1.json", "")}, QA),
    Layout("squad_v2", {"train": ("train-v2.0.json", ""), "validation": ("dev-v2.0.json", "")}, QA),
    Layout(
        "cmrc2018",
        {"train": ("cmrc2018_train.json", ""), "validation": ("cmrc2018_dev.json", "")},
        QA,
        beside={"cmrc2018_trial.json": json.dumps({"data": []})},
    ),
]
ORIGINAL = [*GLUE, *CLUE, *TAGGED, *ASKED]


def numbered(benchmark: str, columns: str, names: tuple[str, ...], *splits: str, path: str = "") -> Layout:
    """One of the hub: Parquet, labels by number, -1 where they are withheld."""
    text, *pair, label = columns.split()
    files = shards(f"{columns} idx", *(splits or ALL), **({"path": path} if path else {}))
    turn = tuple(range(len(names)))
    return Layout(benchmark, files, (text, *(pair or [None]), label), turn, names, names=names)


HUB = [
    numbered("glue/cola", "sentence label", ("unacceptable", "acceptable")),
    numbered("glue/sst2", "sentence label", ("negative", "positive")),
    numbered("glue/mrpc", PAIR, ("not_equivalent", "equivalent"), "train", "validation", "test"),
    Layout("glue/stsb", shards(f"{PAIR} idx", *ALL), PAIR_COLUMNS),
    numbered("glue/qqp", "question1 question2 label", ("not_duplicate", "duplicate")),
    Layout(
        "glue/mnli",
        {
            "train": ("mnli/train-00000-of-00001.parquet", "premise hypothesis label idx"),
            "validation": ("mnli/validation_matched-00000-of-00001.parquet", "premise hypothesis label idx"),
            "mismatched": ("mnli/validation_mismatched-00000-of-00001.parquet", "premise hypothesis label idx"),
            "hidden": ("mnli/test_mismatched-00000-of-00001.parquet", "premise hypothesis label idx"),
        },
        ("premise", "hypothesis", "label"),
        (0, 1, 2),
        NLI,
        names=NLI,
    ),
    numbered("glue/qnli", "question sentence label", RTE),
    numbered("glue/rte", PAIR, RTE),
    numbered("glue/wnli", PAIR, RTE[::-1]),
    numbered("clue/afqmc", PAIR, ("0", "1")),
    numbered("clue/tnews", "sentence label", ("100", "101", "116")),
    numbered("clue/iflytek", "sentence label", ("0", "7", "118")),
    numbered("clue/cmnli", PAIR, ("neutral", "entailment", "contradiction")),
    numbered("clue/ocnli", PAIR, ("neutral", "entailment", "contradiction")),
    numbered("clue/csl", "keyword abst label", ("0", "1")),
    Layout(
        "chnsenticorp",
        shards("text label", "train", "validation", "test", path="data/{}-00000-of-00001.parquet"),
        ("text", None, "label"),
        (0, 1),
        ("negative", "positive"),
    ),
    Layout(
        "lcqmc",
        shards("sentence1 sentence2 score", "train", "validation", "test", path="data/{}-00000-of-00001.parquet"),
        ("sentence1", "sentence2", "score"),
        (0, 1),
        ("different", "same"),
    ),
    *(
        Layout(
            name,
            shards("id tokens ner_tags", *splits, path=f"{name.replace('-', '_')}/{{}}/0000.parquet"),
            ("tokens", None, "ner_tags"),
            ((1, 2, 0, 5),),
            (BIO,),
            names=("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"),
        )
        for name, splits in (("conll2003", ("train", "validation", "test")), ("msra-ner", ("train", "test")))
    ),
    *(
        Layout(name, shards("id context question answers", *splits, path=path), QA)
        for name, path, splits in (
            ("squad", "plain_text/{}-00000-of-00001.parquet", ("train", "validation")),
            ("squad_v2", "squad_v2/{}-00000-of-00001.parquet", ("train", "validation")),
            ("cmrc2018", "data/{}-00000-of-00001.parquet", ("train", "validation", "test")),
        )
    ),
]


# What stands in the files ---------------------------------------------------------------------------------------------


def value(layout: Layout, column: str, number: int) -> Any:
    """What a row has in a column, in the files. Quotes in texts are not closed."""
    text, pair, label = layout.columns
    if layout.kind == "question_answering":
        answer = {"text": [f"Bonn {number}"], "answer_start": [13]}
        none = {"text": [], "answer_start": []}
        asked = {
            text: f'"Where {number}?',
            pair: context(number),
            label: none if layout.benchmark == "squad_v2" and number % 3 == 0 else answer,
        }
        return asked.get(column, f"{number}")
    if column == text:
        return texts(layout, number)
    if column == pair:
        return f'pair {number}: "no'
    if column == label and layout.kind == "regression":
        return number / 4 if layout in HUB else f"{number / 4:.3f}"
    return layout.written[number % len(layout.written)] if column == label else f"{column} of it"


def context(number: int) -> str:
    return f'"They lived \u00a0Bonn {number} away. '


def texts(layout: Layout, number: int) -> Any:
    if layout.kind == "token_classification":
        return ["Ann", f'"{number}', "won", "Bonn"]
    return [f'word "{number}', "other"] if layout.benchmark == "clue/csl" else f'" text {number} of 5" length'


def understood(layout: Layout, *splits: str) -> set[tuple[Any, ...]]:
    """What is to be known of the rows of splits: text, second text, label."""
    return {row for split in splits for number in ROWS[split] if (row := understood_row(layout, number))}


def understood_row(layout: Layout, number: int) -> tuple[Any, ...] | None:
    pair = None if layout.columns[1] is None else f'pair {number}: "no'
    if layout.kind == "question_answering":
        is_open = layout.benchmark == "squad_v2" and number % 3 == 0
        return f'"Where {number}?', context(number), str([] if is_open else [{"text": f"Bonn {number}", "start": 13}])
    if layout.kind == "token_classification":
        return f'Ann "{number} won Bonn', None, str([*BIO])
    text = f'word "{number}, other' if layout.benchmark == "clue/csl" else f'" text {number} of 5" length'
    if layout.kind == "regression":
        return text, pair, number / 4
    label = layout.understood[number % len(layout.understood)]
    return None if label is None else (text, pair, label)


def write(layout: Layout, directory: Path) -> Path:
    for path, content in layout.beside.items():
        put(directory / path, content)
    for split, (path, columns) in layout.files.items():
        names = columns.split()
        rows = [{name: value(layout, name, number) for name in names or QA} for number in ROWS[split]]
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".parquet"):
            parquet(layout, directory / path, rows, split == "hidden")
        else:
            put(directory / path, content_of(layout, split, names, rows))
    return directory


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", newline="")


def content_of(layout: Layout, split: str, names: list[str], rows: list[dict[str, Any]]) -> str:
    if layout.kind == "question_answering":
        return squad(layout, rows)
    if layout.kind == "token_classification":
        return conll(names, rows)
    if layout.files[split][0].endswith(".json"):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    header = [[name.replace("_String", " String").replace("_ID", " ID") for name in names]]
    shown = header if layout.has_header or split == "hidden" else []
    return "".join("\t".join(cells) + "\n" for cells in shown + [list(row.values()) for row in rows])


def conll(names: list[str], rows: list[dict[str, Any]]) -> str:
    middle = ["X"] * (len(names) - 2)
    sentences = [
        "".join(" ".join([word, *middle, tag]) + "\n" for word, tag in zip(row["tokens"], row["tags"], strict=True))
        for row in rows
    ]
    return "-DOCSTART- " + " ".join([*middle, "O"]) + "\n\n" + "\n".join(sentences)


def squad(layout: Layout, rows: list[dict[str, Any]]) -> str:
    paragraphs = []
    for number, row in enumerate(rows):
        found = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in found]
        asked = {"id": f"q{number}", "question": row["question"], "answers": answers}
        if layout.benchmark == "squad_v2":
            asked["is_impossible"] = not answers
        paragraphs.append({"context": row["context"], "qas": [asked]})
    return json.dumps({"version": "v", "data": [{"title": "t", "paragraphs": paragraphs}]}, ensure_ascii=False)


def parquet(layout: Layout, path: Path, rows: list[dict[str, Any]], is_hidden: bool) -> None:
    label, features = layout.columns[2], None
    if is_hidden:
        rows = [row | {label: -1.0 if layout.kind == "regression" else -1} for row in rows]
    if layout.names:
        number: Any = ClassLabel(names=list(layout.names))
        feature = List(number) if layout.kind == "token_classification" else number
        given = {
            name: List(Value("string")) if isinstance(rows[0][name], list) else Value("string") for name in rows[0]
        }
        features = Features(given | {label: feature})
    Dataset.from_list(rows, features=features).to_parquet(path)


# What is read of them -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path_factory, nowhere):
    """Prepares a directory by the name of a benchmark alone."""

    def run(layout, source):
        given = {"source": "file:/x"}
        teacher = {"source": "file:/teacher"}
        fields = {"name": "run", "benchmark": layout.benchmark, "teacher": teacher, "general": {"enabled": False}}
        config = DistillConfig.model_validate({**fields, "data": given}).data
        out = tmp_path_factory.mktemp("out")
        prepare.run(source=source, config=config, out=out, on_metrics=nowhere)
        return TaskData(out)

    return run


def read(data: TaskData, *splits: str) -> set[tuple[Any, ...]]:
    return {(row["text"], row["text_pair"], named(row["label"], data)) for split in splits for row in data.rows(split)}


def named(label: Any, data: TaskData) -> Any:
    """A label by its name; lists as text."""
    if data.kind.name == "token_classification":
        return str([data.labels[number] for number in label])
    return str(label) if isinstance(label, list) else data.labels[label] if isinstance(label, int) else label


def check(layout: Layout, data: TaskData) -> None:
    has_test = "test" in layout.files
    if "validation" in layout.files:
        assert read(data, "train") == understood(layout, "train")
        assert read(data, "validation") == understood(layout, "validation")
    else:
        assert read(data, "train", "validation") == understood(layout, "train")
    assert read(data, "test") == understood(layout, "test" if has_test else "validation")
    if "mismatched" in layout.files:
        assert read(data, "test_mismatched") == understood(layout, "mismatched")
    assert data.other_tests == (["mismatched"] if "mismatched" in layout.files else [])


def test_no_benchmark_is_forgotten():
    assert {layout.benchmark for layout in ORIGINAL} == {layout.benchmark for layout in HUB} == set(BENCHMARKS)


@pytest.mark.parametrize("layout", [*ORIGINAL, *HUB], ids=str)
def test_rows_texts_and_labels_are_those_of_the_files(run, tmp_path, layout):
    """Quotes inside of fields included, which are never closed."""
    check(layout, run(layout, write(layout, tmp_path / "data")))


@pytest.mark.parametrize("layout", ORIGINAL, ids=str)
def test_gzipped_files_are_read_alike(run, tmp_path, layout):
    for file in [file for file in write(layout, tmp_path / "data").rglob("*") if file.is_file()]:
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    check(layout, run(layout, tmp_path / "data"))


# Defects --------------------------------------------------------------------------------------------------------------


def spoil(layout: Layout, directory: Path, *changes: tuple[str, str]) -> Path:
    """The folder with changes in the training file; what is to be changed must be there."""
    file = write(layout, directory) / layout.files["train"][0]
    content = file.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in content
        content = content.replace(old, new)
    put(file, content)
    return directory


TABLES = [layout for layout in ORIGINAL if layout.kind in ("classification", "regression")]


@pytest.mark.parametrize("place", [0, 2], ids=["text", "label"])
@pytest.mark.parametrize("layout", [layout for layout in TABLES if layout.has_header], ids=str)
def test_a_wrong_header_is_refused_with_the_column_that_is_missing(run, tmp_path, layout, place):
    column = layout.columns[place].replace("_", " ") if layout.benchmark == "glue/mrpc" else layout.columns[place]
    is_json = layout.files["train"][0].endswith(".json")
    change = (f'"{column}":', '"wrong":') if is_json else (column, "wrong")
    with pytest.raises(DataError, match=rf"no column .*'{column}'.*; it has .*wrong|holds 'label'; data.labels allows"):
        run(layout, spoil(layout, tmp_path / "data", change))


@pytest.mark.parametrize("layout", [layout for layout in TABLES if not layout.has_header], ids=str)
def test_a_wrong_header_where_there_should_be_none_is_refused(run, tmp_path, layout):
    names = layout.files["train"][1].split()
    file = write(layout, tmp_path / "data") / layout.files["train"][0]
    rows = file.read_text(encoding="utf-8")
    wrong = [name if name == "label" else "wrong" for name in names]
    for header, said in (
        (wrong, rf"no column .*'{layout.columns[0]}'; it has label, wrong"),
        (
            ["a", "b", "c", "d", "e", "f", "g"],
            rf"its first line has 7 columns, data.header names {len(names)}; name each",
        ),
        *([(["wrong"] * len(names), "holds 'wrong'; data.labels allows")] if layout.benchmark != "clue/tnews" else []),
    ):
        put(file, "\t".join(header) + "\n" + rows)
        with pytest.raises(DataError, match=said):
            run(layout, tmp_path / "data")


STRICT = [layout for layout in TABLES if BENCHMARKS[layout.benchmark].data.get("bad_rows", "refuse") == "refuse"]


@pytest.mark.parametrize("layout", STRICT, ids=str)
def test_a_missing_label_is_refused_with_its_row(run, tmp_path, layout):
    file = write(layout, tmp_path / "data") / layout.files["train"][0]
    lines = file.read_text(encoding="utf-8").splitlines()
    names, label = layout.files["train"][1].split(), layout.columns[2]
    if file.suffix == ".json":
        row = json.loads(lines[4])
        del row[label]
        lines[4] = json.dumps(row)
    else:
        number = 4 + layout.has_header
        cells = lines[number].split("\t")
        cells[names.index(label)] = ""
        lines[number] = "\t".join(cells)
    put(file, "\n".join(lines) + "\n")
    with pytest.raises(DataError, match=rf"column '.*{label}.*' (is empty in some rows|holds '').*\(row 5 of train\)"):
        run(layout, tmp_path / "data")


def test_a_row_that_ends_before_its_label_is_refused(run, tmp_path):
    layout = next(layout for layout in GLUE if layout.benchmark == "glue/rte")
    with pytest.raises(DataError, match=r"'label' is empty in some rows.*\(row 8 of train\)"):
        run(layout, spoil(layout, tmp_path / "data", ('pair 7: "no\tnot_entailment', 'pair 7: "no')))


def test_rows_of_qqp_without_label_or_second_question_are_left_out(run, tmp_path):
    """Its files have some: questions that end a line early, and empty ones."""
    layout = next(layout for layout in GLUE if layout.benchmark == "glue/qqp")
    assert [layout for layout in TABLES if layout not in STRICT] == [layout]
    changes = ('pair 7: "no\t1', 'pair 7: "no'), ('pair 8: "no\t0', 'pair 8: "no\t'), ('pair 9: "no\t1', "\t1")
    data = run(layout, spoil(layout, tmp_path / "data", *changes))
    gone = {understood_row(layout, number) for number in (7, 8, 9)}
    assert read(data, "train") == understood(layout, "train") - gone


@pytest.mark.parametrize("layout", TAGGED, ids=str)
def test_tagged_words_without_a_tag_or_with_a_header_are_refused(run, tmp_path, layout):
    word, tag = '"3', layout.written[0][1]
    middle = " X" * (len(layout.files["train"][1].split()) - 2)
    with pytest.raises(DataError, match=rf"line \d+ has {1 + len(middle) // 2} columns, those before"):
        run(layout, spoil(layout, tmp_path / "a", (f"{word}{middle} {tag}", f"{word}{middle}")))
    with pytest.raises(DataError, match=r"its first line names columns \(word, .*NER\), not a word; take it out"):
        run(
            layout, spoil(layout, tmp_path / "b", (f"-DOCSTART- {middle.lstrip()}".strip() + " O", f"word{middle} NER"))
        )


@pytest.mark.parametrize("layout", ASKED, ids=str)
def test_questions_that_lack_a_part_are_refused(run, tmp_path, layout):
    start = '"answers": [{"text": "Bonn 4", "answer_start": 13}]'
    for old, new, said in (
        ('"context":', '"passage":', "question 'q0' has no context"),
        ('"question":', '"query":', "question 'q0' has no question"),
        (
            '"answers":',
            '"answer":',
            "no column 'answers'; it has context, id, question, title|question 'q1' has no answers",
        ),
        (start, '"wrong": []', "question 'q4' has no answers; add them"),
        ('Bonn 4", "answer_start"', 'Rome", "answer_start"', r"'Rome' does not stand at .* \(row 5 of train\)"),
    ):
        with pytest.raises(DataError, match=said):
            run(layout, spoil(layout, tmp_path / "data", (old, new)))
