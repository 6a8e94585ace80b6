"""Report directories of the stages evaluate and gate made by hand, and the page of one read back."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from tinybert.data_config import KindName
from tinybert.page import write_page
from tinybert.page_words import Findings, RunFacts

VOID = {"meta", "img", "br", "use", "path"}


def model(accuracy: float, latency: float, megabytes: float, **more) -> dict:
    return {
        **{"accuracy": accuracy, "accuracy_low": accuracy - 0.012, "accuracy_high": accuracy + 0.012},
        **{"f1_macro": accuracy - 0.01, "f1_macro_low": accuracy - 0.024, "f1_macro_high": accuracy + 0.004},
        **{"ece": 0.081, "ece_calibrated": 0.0217, "temperature": 1.31, "agreement": 0.957, "parameters": 14_350_248},
        **{"gigaflops": 1.24, "megabytes": megabytes, "latency_ms": latency, "latency_p95_ms": latency * 1.3},
        **{"latency_p99_ms": latency * 1.6, "throughput": 40_000 / latency, **more},
    }


def comparison() -> dict:
    return {
        "teacher": model(0.9312, 16.6, 438.0, parameters=109_483_778),
        "student": model(0.9164, 7.2, 57.9),
        "onnx": model(0.9164, 4.3, 58.0),
        "int8": model(0.9141, 2.1, 14.8),
        "baseline": model(0.8423, 7.2, 57.9),
        "champion": model(0.9058, 2.2, 14.8),
        **{"retention": 0.9841, "speedup": 2.3, "rows": 2104, "test_is_validation": False, "threads": 1},
        **{"labels": ["negative", "neutral", "positive"], "throughput_batch": 32, "device": "cpu"},
        **{"seen_by_champion": 37, "confidence": 0.95, "kind": "classification", "metric": "accuracy"},
        "metrics": ["accuracy", "f1_macro"],
    }


def decision() -> dict:
    return {
        **{"verdict": "promote", "forced": False, "force": None, "metric": "accuracy", "served": "int8"},
        "variants": {
            "int8": {"kept": True, "reason": "shown to be less than 2.0 points below the student in torch"},
            "onnx": {"kept": True, "reason": "shown to be less than 2.0 points below the student in torch"},
        },
        "rules": [
            {"name": "evidence", "passed": True, "found": "2,067 test rows", "wanted": "at least 200"},
            {
                "name": "better than the champion",
                "passed": True,
                "found": "+0.8 points",
                "wanted": "shown to be better",
            },
            {"name": "classes", "passed": False, "found": "neutral -6.1 points", "wanted": "none worse by 5.0 points"},
            {"name": "size", "passed": None, "found": "14.8 MB", "wanted": "any"},
        ],
        "notes": ["37 test rows that the champion was trained on are left out of the comparison with it."],
        "summary": "The student is shown to be better than the champion on 2,067 test rows.",
        **{"against_champion": True, "difference": 0.0083, "difference_low": 0.0011, "difference_high": 0.0152},
        **{"p_value": 0.0118, "retention": 0.9816, "speedup": 7.9048, "megabytes": 14.8, "latency_ms": 2.1},
    }


def classes() -> dict:
    champion = {
        "negative": (0.93, 0.95, 0.940, 900),
        "neutral": (0.7, 0.7, 0.7, 204),
        "positive": (0.92, 0.9, 0.91, 1000),
    }
    own = {
        "negative": (0.94, 0.96, 0.951, 900),
        "neutral": (0.7, 0.639, 0.668, 204),
        "positive": (0.93, 0.93, 0.93, 1000),
    }
    keys = ("precision", "recall", "f1", "support")
    scores = {"teacher": own, "student": own, "int8": own, "champion": champion}
    return {name: {label: dict(zip(keys, v, strict=True)) for label, v in of.items()} for name, of in scores.items()}


def calibration() -> dict:
    bins = [
        {"low": n / 10, "high": (n + 1) / 10, "confidence": n / 10 + 0.05, "accuracy": n / 10 + 0.03, "rows": 30 * n}
        for n in range(10)
    ]
    found = {"temperature": 1.31, "ece": 0.081, "ece_calibrated": 0.0217, "bins": bins}
    return dict.fromkeys(("teacher", "student", "onnx", "int8", "champion"), found)


def flip(text: str, right: bool, pair: str | None = None) -> dict:
    answers = ("negative", "positive") if right else ("positive", "negative")
    return {"text": text, "text_pair": pair, "label": "positive", "champion": answers[0], "student": answers[1]}


def flips() -> dict:
    texts = [
        "not half bad at all",
        "\u8fd9\u90e8\u7535\u5f71\u771f\u7684\u5f88\u597d\u770b\uff0c\u6211\u63a8\u8350",
        'a film with "quotes" & ampersands',
    ]
    fixed = [flip(text, right=True) for text in texts + [f"mended text number {n}" for n in range(5)]]
    return {"fixed": fixed, "broken": [flip("a slow start", False, "a fine end")], "fixed_rows": 34, "broken_rows": 17}


def slices() -> list[dict]:
    def entry(slice_: str, value: str, rows: int, student: float) -> dict:
        scores = {"teacher": 0.93, "student": student, "int8": student, "champion": 0.9}
        return {"slice": slice_, "value": value, "rows": rows, **scores}

    return [
        entry("length", "1 to 16 tokens", 1204, 0.93),
        entry("length", "65 and more tokens", 180, 0.8333),
        entry("label", "neutral", 204, 0.639),
        entry("source", "web", 12, 0.5),
    ]


def curve(first: float, last: float, points: int = 40) -> list[tuple[int, float]]:
    return [(10 * n, first + (last - first) * n / (points - 1)) for n in range(points)]


def facts() -> RunFacts:
    logits = {"loss": curve(1.2, 0.2, 3000), "learning_rate": curve(5e-5, 0), "validation_accuracy": curve(0.6, 0.9)}
    layers = {"loss": curve(9, 2), "attention_loss": curve(4, 1), "hidden_loss": curve(5, 1), "final_loss": [(0, 2.0)]}
    return RunFacts(
        name="reviews, four layers",
        outcome="promoted",
        registered="reviews version 3",
        model=f"file:/srv/store/model/{'c' * 64}",
        curves={"layers": layers, "logits": logits},
        lineage=[("data", "file:/srv/rows/train.csv", "a" * 64), ("teacher", "hub:google/bert@main", "b" * 64)],
        stages=[("prepare", 2.31, True), ("layers", 3723.2, False), ("logits", 65.4, False)],
        links={"Prefect": "https://prefect.example/runs/1", "MLflow": "http://mlflow.example/#/experiments/1"},
        commit="0123abc",
        written="2026-01-02 03:04 UTC",
    )


class Reports:
    """Report directories, to be altered before the page is written from them."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.facts = directory, facts()
        self.files = {
            **{"comparison": comparison(), "classes": classes(), "calibration": calibration()},
            **{"flips": flips(), "slices": slices(), "decision": decision()},
        }

    @property
    def findings(self) -> Findings:
        return Findings(**self.files)

    def write(self) -> str:
        for name, content in self.files.items():
            if content is not None:
                (self.directory / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        path = self.directory / "report.html"
        write_page(self.directory, self.directory, self.facts, path)
        return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags with attributes, text by section, rows of tables; refuses tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.rows: list[list[str]] = []
        self.text: dict[str, str] = {}
        self._open: list[str] = []
        self._section = "top"
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = found["id"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "style":
            return
        self.text[self._section] = self.text.get(self._section, "") + f" {data}"
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    def row(self, *beginning: str) -> list[str]:
        return next(row for row in self.rows if tuple(row[: len(beginning)]) == beginning)


def measured(scores: dict[str, float], latency: float, megabytes: float) -> dict:
    """A model with these scores, each in an interval of two points either way, and without calibration."""
    ends = {f"{name}{end}": score + by for name, score in scores.items() for end, by in ENDS.items()}
    others = ("accuracy", "f1_macro", "ece", "temperature")
    return ends | {key: value for key, value in model(0, latency, megabytes).items() if not key.startswith(others)}


def report_of(directory: Path, kind: KindName) -> Reports:
    """The report of another kind of task: of its own scores, with the parts that it has, and two further tests."""
    told, reports = OTHERS[kind], Reports(directory)
    names, first = told["metrics"], told["metrics"][0]
    models = {
        name: measured({metric: score - 0.1 * place for place, metric in enumerate(names)}, latency, size)
        for name, (score, latency, size) in SHAPES.items()
    }
    further = {f"{first}{end}": 0.7 + by for end, by in ENDS.items()}
    other_tests = {name: {"rows": 400, **dict.fromkeys(SHAPES, further)} for name in ("news", "\u65b0\u95fb")}
    more = {"kind": kind, "metric": first, "metrics": names, "labels": told["labels"], "other_tests": other_tests}
    scores = reports.files["classes"]["int8"]
    own = {label: scores[place] for label, place in zip(told["classes"], ("negative", "neutral"), strict=False)}
    reports.files |= {
        "comparison": comparison() | models | more,
        "decision": decision() | {"metric": first},
        "classes": dict.fromkeys(SHAPES, own),
        "calibration": calibration() if told["calibrated"] else {},
        "flips": told["flips"] and {"fixed": told["flips"], "broken": [], "fixed_rows": 1, "broken_rows": 0},
    }
    reports.facts = replace(facts(), curves={}, pair=told["pair"])
    return reports


ENDS = {"": 0.0, "_low": -0.02, "_high": 0.02}
SHAPES = {
    "teacher": (0.9, 16.6, 438.0),
    "student": (0.85, 7.2, 57.9),
    "onnx": (0.85, 4.3, 58.0),
    "int8": (0.84, 2.1, 14.8),
    "baseline": (0.7, 7.2, 57.9),
    "champion": (0.83, 2.2, 14.8),
}
"""Of each model its score, milliseconds and megabytes."""
QUESTION = {
    "text": "\u8c01\u53d1\u660e\u4e86\u7535\u8bdd\uff1f",
    "text_pair": "\u4e9a\u5386\u5c71\u5927\u00b7\u8d1d\u5c14\u53d1\u660e\u4e86\u7535\u8bdd\u3002",
    **{"label": "\u8d1d\u5c14", "champion": "\u7535\u8bdd", "student": "\u8d1d\u5c14"},
}
SENTENCE = {
    **{"text": "Ada lived in London .", "text_pair": None, "label": "B-PER O O B-LOC O"},
    **{"champion": "B-PER O O O O", "student": "B-PER O O B-LOC O"},
}
SUBJECTS = {
    **{"text": "Rates rise , clubs suffer", "text_pair": None, "label": "sport, money"},
    **{"champion": "none", "student": "sport, money"},
}
OTHERS: dict[str, dict] = {
    "multi_label": {
        **{"metrics": ["f1_micro", "f1_macro", "accuracy"], "labels": ["sport", "money", "film"], "pair": False},
        **{"classes": ["sport", "money"], "calibrated": True, "flips": [SUBJECTS]},
    },
    "regression": {
        **{"metrics": ["pearson", "spearman"], "labels": ["similarity"], "pair": True},
        **{"classes": [], "calibrated": False, "flips": None},
    },
    "token_classification": {
        **{"metrics": ["entity_f1", "accuracy"], "labels": ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"], "pair": False},
        **{"classes": ["LOC", "PER"], "calibrated": True, "flips": [SENTENCE]},
    },
    "question_answering": {
        **{"metrics": ["answer_f1", "exact_match"], "labels": ["start", "end"], "pair": True},
        **{"classes": [], "calibrated": False, "flips": [QUESTION]},
    },
}
"""By kind what a report has of it."""
