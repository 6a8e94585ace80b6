"""The comparison of models for each kind of task, against scikit-learn, seqeval, scipy, and counting by hand."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import accuracy_score as words_right
from seqeval.metrics import f1_score as entity_f1
from sklearn.metrics import accuracy_score, f1_score
from transformers import BertConfig, BertTokenizerFast

from tinybert import samples
from tinybert.data import SPLITS, RowWriter, TaskData, write_manifest
from tinybert.kinds import KINDS
from tinybert.models import load_model, load_tokenizer, save
from tinybert.release_config import EvaluateConfig
from tinybert.released import Released, Variant
from tinybert.stages import evaluate

CONFIG = EvaluateConfig(latency_runs=3, throughput_runs=1, throughput_batch=4, resamples=100, threads=1)
MODELS = ("teacher", "student", "champion")
ROWS, LENGTH = 40, 48
TEXTS = [text.replace(" ,", "") for text, _ in samples.sentences()]
NAMES = {
    "multi_label": ["bad", "good", "odd"],
    "regression": ["stars"],
    "token_classification": ["O", "B-MOOD", "I-MOOD", "B-THING"],
    "question_answering": ["start", "end"],
}
METRICS = {
    "multi_label": ["f1_macro", "f1_micro", "accuracy"],
    "regression": ["pearson", "spearman"],
    "token_classification": ["entity_f1", "accuracy"],
    "question_answering": ["answer_f1", "exact_match"],
}
"""The one that decides first; of several labels another than the form would have."""


def write_model(directory, kind, seed):
    """A model of random weights, spread so widely that it answers this way and that; released as a champion is."""
    torch.manual_seed(seed)
    tokenizer = BertTokenizerFast(vocab=samples.vocabulary(), model_max_length=64)
    shape = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 30}
    names = NAMES[kind.name]
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.5, **shape, **kind.options(names)
    )
    save(kind.auto_class().from_config(config), tokenizer, directory, LENGTH)
    torch_alone = {"kind": kind.name, "default": "torch", "variants": {"torch": Variant(file="model.safetensors")}}
    Released(labels=names, max_length=LENGTH, pair=kind.name == "question_answering", **torch_alone).write(directory)
    return directory


def example(kind, number):
    """Text, second text and label of a row."""
    text, chance = TEXTS[7 * number % len(TEXTS)], np.random.default_rng(number)
    if kind == "multi_label":
        return text, None, np.flatnonzero(chance.random(3) < 0.4).tolist()
    if kind == "regression":
        return text, None, float(len(text) + chance.normal(scale=9))
    if kind == "token_classification":
        return text, None, chance.integers(0, 4, len(text.split())).tolist()
    context = f"{text} {TEXTS[5 * number % len(TEXTS)]}"
    word = context.split()[number % 5]
    return "what is the film", context, [{"text": word, "start": context.index(word)}] if number % 4 else []


def write_data(directory, kind):
    """The test rows differ from those of the other splits; every second one is from the shop."""
    directory.mkdir()
    for start, split in enumerate(SPLITS):
        with RowWriter(directory / f"{split}.arrow", kind) as writer:
            for number in range(ROWS):
                row = example(kind.name, number + start * ROWS)
                writer.add(*row, number, group=("shop", "web")[number % 2])
    write_manifest(directory, NAMES[kind.name], LENGTH, kind=kind.name, metric=METRICS[kind.name][0])
    return directory


@pytest.fixture(scope="module", params=list(NAMES))
def compared(request, tmp_path_factory):
    """Of a kind of task the report, what the stage told, and what each model says of the test rows."""
    root, kind = tmp_path_factory.mktemp(request.param), KINDS[request.param]
    data = write_data(root / "data", kind)
    models = {name: write_model(root / name, kind, seed) for seed, name in enumerate(MODELS)}
    seen = root / "seen"
    write_data(seen, kind)
    with RowWriter(seen / "train.arrow", kind) as writer:
        for number, row in zip(range(5), TaskData(data).rows("test"), strict=False):
            writer.add(row["text"], row["text_pair"], row["label"], number)
    out = root / "out"
    out.mkdir()
    metrics = evaluate.run(data=data, **models, champion_data=seen, config=CONFIG, out=out, on_metrics=lambda *_: None)
    rows = TaskData(data).rows("test")[:]
    said = {
        name: ANSWERS[kind.name](load_model(path, kind).eval(), load_tokenizer(path), rows)
        for name, path in models.items()
    }
    return SimpleNamespace(kind=kind, out=out, metrics=metrics, rows=rows, said=said)


def read(compared, name="comparison"):
    return json.loads((compared.out / f"{name}.json").read_text())


# What each model says, by plain transformers, one row at a time.


@torch.no_grad()
def logits_of(model, tokenizer, texts):
    return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])


def several(model, tokenizer, rows):
    chances = logits_of(model, tokenizer, rows["text"]).sigmoid()
    return [[place for place, chance in enumerate(row) if chance > 0.5] for row in chances.tolist()]


def numbers(model, tokenizer, rows):
    return logits_of(model, tokenizer, rows["text"])[:, 0].tolist()


@torch.no_grad()
def tags(model, tokenizer, rows):
    found = []
    for text in rows["text"]:
        encoded = tokenizer(text.split(), is_split_into_words=True, return_tensors="pt")
        said, words = model(**encoded).logits[0].argmax(1).tolist(), encoded.word_ids()
        firsts = [words.index(word) for word in range(len(text.split()))]
        found.append([said[first] for first in firsts])
    return found


@torch.no_grad()
def spans(model, tokenizer, rows):
    """Every pair of places in the context, no answer among them; contexts are as long as one window or shorter."""
    found = []
    for question, context in zip(rows["text"], rows["text_pair"], strict=True):
        encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        assert encoded["input_ids"].shape[1] <= LENGTH
        places, second = encoded.pop("offset_mapping")[0].tolist(), encoded.sequence_ids()
        output = model(**encoded)
        first, last = output.start_logits[0].tolist(), output.end_logits[0].tolist()
        best = (first[0] + last[0], "")
        inside = [place for place, part in enumerate(second) if part == 1]
        for begin in inside:
            for end in range(begin, inside[-1] + 1):
                best = max(best, (first[begin] + last[end], context[places[begin][0] : places[end][1]]))
        found.append(best[1])
    return found


ANSWERS = {"multi_label": several, "regression": numbers, "token_classification": tags, "question_answering": spans}


# The scores of that.


def held(rows):
    return [[int(place in row) for place in range(3)] for row in rows]


def tagged(rows):
    return [[NAMES["token_classification"][number] for number in row] for row in rows]


def exact(labels, answers):
    """The texts have no punctuation, and two articles."""
    rights = [{" ".join(gold["text"].split()) for gold in label} or {""} for label in labels]
    pairs = zip(answers, rights, strict=True)
    return np.mean([without_articles(answer) in set(map(without_articles, golds)) for answer, golds in pairs])


def without_articles(text):
    return " ".join(word for word in text.lower().split() if word not in ("a", "the"))


SCORES = {
    "f1_micro": lambda labels, said: f1_score(held(labels), held(said), average="micro"),
    "f1_macro": lambda labels, said: f1_score(held(labels), held(said), average="macro"),
    "accuracy": lambda labels, said: accuracy_score(held(labels), held(said)),
    "pearson": lambda labels, said: pearsonr(labels, said).statistic,
    "spearman": lambda labels, said: spearmanr(labels, said).statistic,
    "entity_f1": lambda labels, said: entity_f1(tagged(labels), tagged(said)),
    "words": lambda labels, said: words_right(tagged(labels), tagged(said)),
    "exact_match": exact,
}


def score(kind, name):
    return SCORES["words" if (kind, name) == ("token_classification", "accuracy") else name]


def test_answers_are_those_of_plain_transformers(compared):
    table = pq.read_table(compared.out / "predictions.parquet")
    assert table["label"].to_pylist() == compared.rows["label"]
    assert table.schema.field("label").type == compared.kind.label_type
    for name in MODELS:
        answers, expected = table[f"answer_{name}"].to_pylist(), compared.said[name]
        assert answers == (pytest.approx(expected, abs=1e-4) if compared.kind.name == "regression" else expected)
        assert len(set(map(str, answers))) > 2
        confidence = table[f"confidence_{name}"].to_numpy()
        assert ((confidence > 0) & (confidence <= 1)).all()


def test_scores_are_those_of_an_independent_count(compared):
    comparison, kind = read(compared), compared.kind.name
    assert (comparison["kind"], comparison["metric"]) == (kind, METRICS[kind][0])
    assert comparison["metrics"] == METRICS[kind]
    for name in MODELS:
        for metric in METRICS[kind]:
            found, answers = comparison[name][metric], compared.said[name]
            if metric in SCORES:
                assert found == pytest.approx(score(kind, metric)(compared.rows["label"], answers), abs=1e-5)
            assert comparison[name][f"{metric}_low"] <= found <= comparison[name][f"{metric}_high"]
    teacher, student = (comparison[name][METRICS[kind][0]] for name in ("teacher", "student"))
    assert comparison["retention"] == pytest.approx(student / teacher if teacher else 0)


def test_agreement_takes_the_teachers_answers_for_labels(compared):
    comparison, kind, said = read(compared), compared.kind.name, compared.said
    if kind == "question_answering":
        golds = [[{"text": answer}] if answer else [] for answer in said["teacher"]]
        assert comparison["student"]["agreement"] >= exact(golds, said["student"])
    else:
        expected = score(kind, METRICS[kind][0])(said["teacher"], said["student"])
        assert comparison["student"]["agreement"] == pytest.approx(expected, abs=1e-5)
    assert comparison["teacher"]["agreement"] == pytest.approx(1)


def test_the_numbers_are_told_and_finite(compared):
    comparison = read(compared)
    expected = {f"{name}_{key}": value for name in MODELS for key, value in comparison[name].items()}
    assert compared.metrics == expected | {key: comparison[key] for key in ("retention", "speedup")}
    assert all(isinstance(value, float) and math.isfinite(value) for value in compared.metrics.values())


def test_slices_have_the_score_that_decides(compared):
    kind, found = compared.kind.name, read(compared, "slices")
    assert {entry["slice"] for entry in found} == {"length", "group"}  # a row is of no one class
    assert sum(entry["rows"] for entry in found if entry["slice"] == "length") == ROWS
    web = next(entry for entry in found if entry["value"] == "web")
    labels, said = compared.rows["label"][1::2], compared.said["student"][1::2]
    metric = METRICS[kind][0]
    if metric in SCORES:
        assert web["student"] == pytest.approx(score(kind, metric)(labels, said), abs=1e-5)


def test_flips_are_of_answers_that_are_right_in_full(compared):
    if compared.kind.name == "regression":
        assert not (compared.out / "flips.json").exists()
        return
    flips, labels = read(compared, "flips"), compared.rows["label"]
    if compared.kind.name == "question_answering":
        right = {
            name: np.array([exact([label], [answer]) > 0 for label, answer in zip(labels, said, strict=True)])
            for name, said in compared.said.items()
        }
    else:
        right = {
            name: np.array([label == answer for label, answer in zip(labels, said, strict=True)])
            for name, said in compared.said.items()
        }
    unseen = np.arange(ROWS) >= 5
    assert flips["fixed_rows"] == (right["student"] & ~right["champion"] & unseen).sum()
    assert flips["broken_rows"] == (~right["student"] & right["champion"] & unseen).sum()
    assert all(isinstance(entry["label"], str) for entry in flips["fixed"] + flips["broken"])


def test_what_is_calibrated_has_a_temperature(compared):
    comparison, calibration = read(compared), read(compared, "calibration")
    calibrated = compared.kind.name in ("multi_label", "token_classification")
    assert (calibration.keys() == set(MODELS)) == calibrated
    assert (compared.out / "reliability.png").exists() == calibrated
    assert ("temperature" in comparison["student"]) == calibrated
    if calibrated:
        choices = {"multi_label": 3 * ROWS, "token_classification": sum(map(len, compared.rows["label"]))}
        assert sum(entry["rows"] for entry in calibration["student"]["bins"]) == choices[compared.kind.name]
        assert comparison["student"]["ece_calibrated"] < comparison["student"]["ece"]


def test_pictures_are_drawn_of_what_there_is(compared):
    kind = compared.kind.name
    drawn = {"token_classification": "confusion", "regression": "scatter"}.get(kind)
    wanted = {f"{drawn}_{name}.png" for name in MODELS} if drawn else set()
    found = {path.name for path in compared.out.glob("*.png")}
    assert found - {"reliability.png"} == wanted | {"comparison.png"}
    classes = read(compared, "classes")["student"]
    assert set(classes) == {
        "multi_label": set(NAMES["multi_label"]),
        "token_classification": {"MOOD", "THING"},
        "question_answering": {"answerable", "unanswerable"},
    }.get(kind, set())


def test_a_row_read_in_windows_costs_all_of_them(tmp_path):
    kind = KINDS["question_answering"]
    costs = {}
    for name, times in (("short", 1), ("long", 12)):
        data = write_data(tmp_path / name, kind)
        with RowWriter(data / "test.arrow", kind) as writer:
            for number in range(4):
                text, context, _ = example(kind.name, number)
                writer.add(text, " ".join([context] * times), [], number)
        models = {model: write_model(tmp_path / f"{name} {model}", kind, 0) for model in ("teacher", "student")}
        (tmp_path / f"{name} out").mkdir()
        out = tmp_path / f"{name} out"
        evaluate.run(data=data, **models, config=CONFIG, out=out, on_metrics=lambda *_: None)
        costs[name] = json.loads((out / "comparison.json").read_text())["student"]
    assert costs["long"]["gigaflops"] > 5 * costs["short"]["gigaflops"]
