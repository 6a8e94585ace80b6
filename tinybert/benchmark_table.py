"""Known benchmarks by name: where they stand, which columns and labels they have, how they are scored and trained.

Columns are named so that the data sets on the Hugging Face hub and the files as their authors gave them out are both
read: `a|b` is whichever of the two a file has, `header` serves files without one. Copies (N), lengths and epochs are
those of the TinyBERT paper (arXiv:1909.10351, section 4.2) and of its code's table of defaults; for Chinese, lengths
are those of CLUE's baselines (arXiv:2004.05986). Whatever a form gives itself comes before what stands here.
"""

from typing import Any, Literal, NamedTuple

from tinybert.form import merge

BenchmarkName = Literal[
    "glue/cola",
    "glue/sst2",
    "glue/mrpc",
    "glue/stsb",
    "glue/qqp",
    "glue/mnli",
    "glue/qnli",
    "glue/rte",
    "glue/wnli",
    "clue/afqmc",
    "clue/tnews",
    "clue/iflytek",
    "clue/cmnli",
    "clue/ocnli",
    "clue/csl",
    "chnsenticorp",
    "lcqmc",
    "conll2003",
    "msra-ner",
    "squad",
    "squad_v2",
    "cmrc2018",
]


class Benchmark(NamedTuple):
    """One line of the table."""

    folder: str
    """Name of the folder in which its authors' files lie."""
    data: dict[str, Any]
    """Fields of the box data."""
    copies: int | None = None
    """Augmented copies of each row; None: by the number of rows."""
    epochs: int = 20
    """Of task distillation's first part."""
    averaged: tuple[str, ...] = ()
    """Scores whose mean stands for it in the benchmark's average; none: the deciding one alone."""
    language: str = "en"


_GLUE = "hub:nyu-mll/glue/{}@main"
_CLUE = "hub:clue/clue/{}@main"
_CONVERTED = "@refs/convert/parquet"
"""Where the hub keeps as Parquet what its authors gave it as a script."""
_NLI = ["entailment", "neutral", "contradiction"]
_PAIR = {"text": "sentence1", "text_pair": "sentence2", "max_length": 128}
_NER = {"kind": "token_classification", "text": "tokens", "label": "ner_tags|tags", "max_length": 128}
_QA = {"kind": "question_answering", "max_length": 384}


BENCHMARKS: dict[BenchmarkName, Benchmark] = {
    "glue/cola": Benchmark(
        "CoLA",
        {
            "source": _GLUE.format("cola"),
            "text": "sentence",
            "max_length": 64,
            "labels": ["unacceptable", "acceptable"],
            "metric": "mcc",
            "header": ["source", "label", "star", "sentence"],
        },
        copies=30,
        epochs=50,
    ),
    "glue/sst2": Benchmark(
        "SST-2",
        {
            "source": _GLUE.format("sst2"),
            "text": "sentence",
            "max_length": 64,
            "labels": ["negative", "positive"],
        },
        copies=20,
    ),
    "glue/mrpc": Benchmark(
        "MRPC",
        {
            "source": _GLUE.format("mrpc"),
            **_PAIR,
            "text": "sentence1|#1 String",
            "text_pair": "sentence2|#2 String",
            "label": "label|Quality",
            "labels": ["not_equivalent", "equivalent"],
            "metric": "f1",
        },
        copies=30,
        averaged=("f1", "accuracy"),
    ),
    "glue/stsb": Benchmark(
        "STS-B",
        {"source": _GLUE.format("stsb"), **_PAIR, "kind": "regression", "label": "label|score"},
        copies=30,
        averaged=("pearson", "spearman"),
    ),
    "glue/qqp": Benchmark(
        "QQP",
        {
            "source": _GLUE.format("qqp"),
            **_PAIR,
            "text": "question1",
            "text_pair": "question2",
            "label": "label|is_duplicate",
            "labels": ["not_duplicate", "duplicate"],
            "metric": "f1",
            "bad_rows": "drop",
        },
        copies=10,
        epochs=10,
        averaged=("f1", "accuracy"),
    ),
    "glue/mnli": Benchmark(
        "MNLI",
        {
            "source": _GLUE.format("mnli"),
            **_PAIR,
            "text": "sentence1|premise",
            "text_pair": "sentence2|hypothesis",
            "label": "label|gold_label",
            "labels": _NLI,
            "drop_labels": ["-"],
            "splits": {
                "validation": "dev_matched*|validation_matched*",
                "mismatched": "dev_mismatched*|validation_mismatched*",
            },
        },
        copies=10,
        epochs=10,
    ),
    "glue/qnli": Benchmark(
        "QNLI",
        {
            "source": _GLUE.format("qnli"),
            **_PAIR,
            "text": "question",
            "text_pair": "sentence",
            "labels": ["entailment", "not_entailment"],
        },
        copies=20,
        epochs=10,
    ),
    "glue/rte": Benchmark(
        "RTE",
        {"source": _GLUE.format("rte"), **_PAIR, "labels": ["entailment", "not_entailment"]},
        copies=30,
    ),
    "glue/wnli": Benchmark(
        "WNLI",
        {"source": _GLUE.format("wnli"), **_PAIR, "labels": ["not_entailment", "entailment"]},
        copies=30,
    ),
    "clue/afqmc": Benchmark("AFQMC", {"source": _CLUE.format("afqmc"), **_PAIR}, language="zh"),
    "clue/tnews": Benchmark(
        "TNEWS",
        {
            "source": _CLUE.format("tnews"),
            "text": "sentence",
            "label": "label",
            "header": ["sentence", "label"],
            "max_length": 128,
        },
        language="zh",
    ),
    "clue/iflytek": Benchmark(
        "IFLYTEK", {"source": _CLUE.format("iflytek"), "text": "sentence", "max_length": 128}, language="zh"
    ),
    "clue/cmnli": Benchmark(
        "CMNLI",
        {"source": _CLUE.format("cmnli"), **_PAIR, "drop_labels": ["-", "-1"]},
        language="zh",
    ),
    "clue/ocnli": Benchmark(
        "OCNLI",
        {"source": _CLUE.format("ocnli"), **_PAIR, "drop_labels": ["-", "-1"]},
        language="zh",
    ),
    "clue/csl": Benchmark(
        "CSL",
        {"source": _CLUE.format("csl"), "text": "keyword", "text_pair": "abst", "max_length": 256},
        language="zh",
    ),
    "chnsenticorp": Benchmark(
        "ChnSentiCorp",
        {
            "source": "hub:lansinuote/ChnSentiCorp@main",
            "text": "text|text_a",
            "labels": ["negative", "positive"],
            "max_length": 256,
        },
        language="zh",
    ),
    "lcqmc": Benchmark(
        "LCQMC",
        {
            "source": "hub:C-MTEB/LCQMC@main",
            "text": "sentence1|text_a",
            "text_pair": "sentence2|text_b",
            "label": "score|label",
            "labels": ["different", "same"],
            "header": ["text_a", "text_b", "label"],
            "max_length": 128,
        },
        language="zh",
    ),
    "conll2003": Benchmark("CoNLL-2003", {"source": f"hub:eriktks/conll2003/conll2003{_CONVERTED}", **_NER}),
    "msra-ner": Benchmark("MSRA", {"source": f"hub:levow/msra_ner/msra_ner{_CONVERTED}", **_NER}, language="zh"),
    "squad": Benchmark("SQuAD", {"source": "hub:rajpurkar/squad/plain_text@main", **_QA}),
    "squad_v2": Benchmark("SQuAD2", {"source": "hub:rajpurkar/squad_v2/squad_v2@main", **_QA}),
    "cmrc2018": Benchmark("CMRC2018", {"source": "hub:hfl/cmrc2018@main", **_QA}, language="zh"),
}
"""By the names the form knows."""


def filled(name: BenchmarkName, given: dict[str, Any]) -> dict[str, Any]:
    """The values of a run's form with what the table knows of a benchmark where they say nothing.

    Its authors keep the labels of the test rows, so the validation rows serve as test rows too (`data.test_share` 0).
    """
    line = BENCHMARKS[name]
    known = {
        "data": {"test_share": 0.0, **line.data},
        "augment": {"language": line.language, "copies": line.copies},
        "layers": {"optim": {"epochs": line.epochs}},
    }
    return merge(known, given)
