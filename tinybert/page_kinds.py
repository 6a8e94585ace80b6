"""What is said otherwise of each kind of task: what its models do, how they are asked, what they answer."""

import json
from typing import NamedTuple

from tinybert.data_config import KindName
from tinybert.kinds import kind_of
from tinybert.metrics import TITLES


class Words(NamedTuple):
    """Of one kind of task."""

    does: str
    """What a model does with `texts`, told with the `count` and the `names` of its outputs."""
    example: tuple[str, str]
    """A text and its second one."""
    answers: str
    """Columns of the answers, before truncated and error."""
    right: str | None
    """What the data says to a row is called; None where answers are nearer or farther, not right or wrong."""
    in_full: str = ""
    """What is right, where a row's answer has parts."""
    accuracy: str = ""
    """What it is a share of, where that is not of the rows."""
    outputs: str | None = None
    """What the names of the outputs are called; None where they tell nobody anything."""
    members: str = "Test rows"
    """What a class's scores are counted over."""
    pipeline: str = "truncation=True"
    """Options of the pipeline of transformers."""


WORDS: dict[KindName, Words] = {
    "classification": Words(
        does="sorts {texts} into {count} labels: {names}",
        example=("A text to classify", "Its pair"),
        answers="label, score, p_<label> of each label",
        right="True label",
        outputs="Labels",
    ),
    "multi_label": Words(
        does="gives {texts} any number of {count} labels: {names}",
        example=("A text to label", "Its pair"),
        answers="labels, p_<label> of each label",
        right="True labels",
        in_full="rows of which every label is right",
        accuracy="the share of rows of which every label is right",
        outputs="Labels",
        pipeline="truncation=True, top_k=None",
    ),
    "regression": Words(
        does="gives {texts} a number: {names}",
        example=("A text to rate", "Its pair"),
        answers="value",
        right=None,
        outputs="Number",
    ),
    "token_classification": Words(
        does="tags the words of {texts} with {count} tags: {names}",
        example=("Ada Lovelace was born in London.", ""),
        answers="entities, each with label, text, start, end, score",
        right="True tags",
        in_full="rows of which every tag is right",
        accuracy="the share of words whose tag is right",
        outputs="Tags",
        members="Entities",
        pipeline='aggregation_strategy="first"',
    ),
    "question_answering": Words(
        does="finds answers to questions in the texts given with them",
        example=("Where was Ada Lovelace born?", "Ada Lovelace was born in London."),
        answers="answer, start, end, score",
        right="True answers",
        in_full="answers that match a true one exactly",
    ),
}
"""By kind."""

_MEANINGS = {
    "f1_macro": "the mean of the classes' F1",
    "f1": "that of the positive class, which is the last",
    "mcc": "0% for answers that have nothing to do with the labels, 100% for right ones",
    "f1_micro": "counted over all labels of all rows together",
    "pearson": "100% where answers lie on a rising line over the true values; how far off they are it does not say",
    "spearman": "the same of ranks, 100% where answers order the rows as the true values do",
    "entity_f1": "an entity counts as found where all its words and its label are right",
    "answer_f1": "how far the words of answers and true answers are the same",
    "exact_match": "the share of answers that are a true answer word for word",
}


def heading(metric: str) -> str:
    """A score's title, with a capital."""
    title = TITLES[metric]
    return title[0].upper() + title[1:]


def meaning(kind: KindName, metric: str) -> str:
    """What a score measures; empty where its title says it."""
    return WORDS[kind].accuracy if metric == "accuracy" else _MEANINGS[metric]


def ask_registered(kind: KindName, pair: bool, uri: str) -> str:
    """Code that asks a registered model."""
    text, second = map(quoted, WORDS[kind].example)
    row = f"[{text}, {second}]" if pair else text
    return "\n".join(
        [
            "import mlflow",
            f"model = mlflow.pyfunc.load_model({quoted(uri)})",
            f"model.predict([{row}])",
            f"# columns: {WORDS[kind].answers}, truncated, error",
        ]
    )


def ask_directory(kind: KindName, pair: bool, directory: str) -> str:
    """Code that asks a packaged model by itself."""
    text, second = map(quoted, WORDS[kind].example)
    asked = f"[{text}], pairs=[{second}]" if pair else f"[{text}]"
    load = f"student = Student.load({quoted(directory)})"
    return f"from tinybert.serving import Student\n{load}\nstudent.answer({asked})"


def ask_transformers(kind: KindName, pair: bool, directory: str) -> str:
    """Code that asks the weights with transformers alone."""
    place, (text, second) = quoted(directory), map(quoted, WORDS[kind].example)
    if kind == "question_answering":
        loader = "AutoModelForQuestionAnswering"  # for which transformers 5 has no pipeline
        load = f"model = {loader}.from_pretrained({place}, use_safetensors=True)"
        return f"from transformers import {loader}\n{load}  # gives start_logits and end_logits"
    asked = f'{{"text": {text}, "text_pair": {second}}}' if pair else text
    ask = f"pipeline({quoted(kind_of(kind).pipeline)}, model={place}, {WORDS[kind].pipeline})"
    return f"from transformers import pipeline\nanswer = {ask}\nanswer({asked})  # torch, uncalibrated"


def quoted(text: str) -> str:
    """As Python writes a string, in double quotes."""
    return json.dumps(text, ensure_ascii=False)
