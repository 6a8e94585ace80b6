"""The box of the form that says what the task is, where its rows stand, and how they are split."""

import re
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from tinybert.form import PIN, Form

KindName = Literal["classification", "multi_label", "regression", "token_classification", "question_answering"]
MetricName = Literal[
    "accuracy", "f1_macro", "f1", "mcc", "f1_micro", "pearson", "spearman", "entity_f1", "answer_f1", "exact_match"
]


class _Defaults(NamedTuple):
    text: str
    text_pair: str | None
    label: str
    metrics: tuple[MetricName, ...]
    """Scores there are; the first decides where none is named."""
    judged: bool = True
    """The teacher decides which augmented copies are kept, and the prediction phase learns from them."""


DEFAULTS: dict[KindName, _Defaults] = {
    "classification": _Defaults("text", None, "label", ("accuracy", "f1_macro", "f1", "mcc")),
    "multi_label": _Defaults("text", None, "labels", ("f1_micro", "f1_macro", "accuracy")),
    "regression": _Defaults("text", None, "label", ("pearson", "spearman"), False),
    "token_classification": _Defaults("tokens", None, "tags", ("entity_f1", "accuracy")),
    "question_answering": _Defaults("question", "context", "answers", ("answer_f1", "exact_match"), False),
}
"""Of each kind of task: names of its columns where the form gives none, and its scores."""
SPLITS = ("train", "validation", "test")
_MISNAMED = ("training", "valid", "val", "dev", "eval", "testing")
"""Names of a further test that somebody must have meant as one of the three."""


class DataConfig(Form):
    """The task and its labelled rows."""

    source: str = Field(pattern=PIN)
    """Training rows: hub:owner/name@revision, file:/path, s3://bucket/key, package:module/path."""
    kind: KindName = "classification"
    """multi_label: any number of labels a row; token_classification: a tag per word, e.g. named entities."""
    metric: MetricName | None = None
    """The score that chooses checkpoints and decides promotion. Empty: accuracy, f1_micro, pearson, entity_f1, or
    answer_f1, by kind."""
    validation_source: str | None = Field(None, pattern=PIN)
    """Validation rows. Empty: the source's own validation split, or a part of its rows."""
    text: str | None = None
    """Column of the (first) sentence, the words, or the question; a|b: whichever of the two the files have. Empty:
    text, tokens, or question, by kind."""
    text_pair: str | None = None
    """Column of the second sentence, for pair tasks, or of the context (empty: context) a question is about."""
    label: str | None = None
    """Column of the label, by name or by number, or of the number, the tags, or the answers. Empty: label,
    labels, tags, or answers, by kind."""
    label_separator: str = Field(",", min_length=1)
    """Stands between the labels of a row of a multi_label task, where the column holds text."""
    labels: list[str] = []
    """Label names in order. Needed where the column holds numbers without names; empty: taken from the data."""
    drop_labels: list[str] = []
    """Rows with these labels are left out, e.g. "-" where annotators disagreed."""
    where: dict[str, str] = {}
    """Only rows whose columns hold these values, e.g. {"source": "reviews"}."""
    header: list[str] = []
    """Names of the columns of csv and tsv files whose first line does not name them."""
    splits: dict[str, str] = {}
    """File name patterns of a split, e.g. {"validation": "dev_matched*"}, several with |. Names other than train,
    validation and test are further tests, scored apart. Empty: files named after a split."""
    rows: int | None = Field(None, ge=2)
    """Training rows at most, sampled per label. Empty: all."""
    validation_rows: int | None = Field(None, ge=2)
    """Validation rows at most, sampled per label. Empty: all."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of rows held out (seeded, per label) where no validation split exists."""
    test_source: str | None = Field(None, pattern=PIN)
    """Test rows. Empty: the source's own labelled test split, or a part of the held-out rows."""
    test_rows: int | None = Field(None, ge=2)
    """Test rows at most, sampled per label. Empty: all."""
    test_share: float = Field(0.5, ge=0, lt=1)
    """Share of the held-out rows that models are compared on; checkpoints are chosen on the rest. 0: all serve both."""
    slice_by: str | None = None
    """Column by whose values the scores are broken down, e.g. a channel or a product. Empty: none."""
    leaks: Literal["remove", "refuse"] = "remove"
    """Training rows that stand among validation or test rows too: take them out, or refuse the data, as then also where
    validation rows stand in a test."""
    bad_rows: Literal["refuse", "drop"] = "refuse"
    """Rows that cannot be read, e.g. with an empty text or without a label: refuse the data, or leave them out."""
    max_length: int = Field(128, ge=8, le=512)
    """Tokens per example, special tokens included; longer ones are cut, long contexts are read in windows that overlap
    by a third. Time and memory grow with it."""
    seed: int = Field(42, ge=0, le=2**31 - 1)
    """Which rows are sampled and split off."""

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        if self.labels and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise ValueError(f"labels {self.labels}: give at least two names, each once")
        if self.labels and self.kind in ("regression", "question_answering"):
            raise ValueError(f"labels {self.labels}: a task of kind {self.kind} has none; leave them out")
        return self

    @model_validator(mode="after")
    def _kind_has_metric(self) -> Self:
        if self.metric not in (None, *DEFAULTS[self.kind].metrics):
            allowed = ", ".join(DEFAULTS[self.kind].metrics)
            raise ValueError(f"metric {self.metric!r} with kind {self.kind}: choose one of {allowed}")
        if self.kind == "token_classification" and self.text_pair:
            raise ValueError(f"text_pair {self.text_pair!r} with kind {self.kind}: words have no second text")
        return self

    @model_validator(mode="after")
    def _splits_are_named(self) -> Self:
        for name in self.splits:
            if name.lower() in _MISNAMED:
                raise ValueError(f"splits {name!r}: the three are called {', '.join(SPLITS)}; rename it")
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"splits {name!r}: use letters, digits, - and _, which names of files can hold")
        return self

    @property
    def score(self) -> MetricName:
        """The metric that decides."""
        return self.metric or DEFAULTS[self.kind].metrics[0]

    @property
    def judged(self) -> bool:
        """Whether the teacher decides which augmented copies are kept."""
        return DEFAULTS[self.kind].judged

    @property
    def text_column(self) -> str:
        """Column of the text, the words or the question; alternatives with |."""
        return self.text or DEFAULTS[self.kind].text

    @property
    def pair_column(self) -> str | None:
        """Column of the second text or the context; alternatives with |."""
        return self.text_pair or DEFAULTS[self.kind].text_pair

    @property
    def label_column(self) -> str:
        """Column of the labels, numbers, tags or answers; alternatives with |."""
        return self.label or DEFAULTS[self.kind].label

    @property
    def other_tests(self) -> list[str]:
        """Names of the further tests."""
        return [name for name in self.splits if name not in SPLITS]
