"""What is refused from the models' files alone."""

import json
import shutil

import pytest

from tinybert import samples
from tinybert.checks import (
    check_models,
    check_same_vocabulary,
    check_teacher_labels,
    has_mlm_head,
    label_order,
    taught_labels,
)
from tinybert.cli import validated
from tinybert.config import DistillConfig
from tinybert.data_config import DataConfig
from tinybert.errors import ConfigError, ModelError, SourceError
from tinybert.form import merge

FORM = {
    "name": "x",
    "data": {"source": "file:/rows.csv", "max_length": 16},
    "teacher": {"source": "file:/teacher"},
    "student": {"layers": 2, "hidden": 16, "ffn": 32, "heads": 4},
    "corpus": {"source": "file:/corpus.txt", "length": 16},
}


@pytest.fixture
def teacher(smoke_material):
    return smoke_material / "teacher"


def check(change, teacher, student=None):
    check_models(validated(DistillConfig, merge(FORM, change)), teacher, student)


def test_models_that_fit_pass(teacher):
    check({}, teacher)
    check({"student": {"hidden": 32, "ffn": 64, "start": "teacher"}}, teacher)
    check({"student": {"start": "teacher"}}, teacher)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"student": {"heads": 2}, "layer_map": {"attention": "scores"}},
            ModelError,
            r"student.heads: found 2; the attention loss needs as many .* has, 4 .*attention to auto",
        ),
        (
            {"student": {"heads": 2}, "layer_map": {"relation_heads": 3}},
            ConfigError,
            "layer_map.relation_heads: found 3, .* student's 16 and the teacher's 32; .* a divisor of 16",
        ),
        ({"student": {"layers": 5}}, ConfigError, "student.layers: found 5; the teacher has 4 layers"),
        (
            {"student": {"start": "teacher", "hidden": 36}},
            ModelError,
            "student.hidden: found 36; .* at most .* 32 .*random",
        ),
        (
            {"student": {"start": "teacher", "ffn": 65}},
            ModelError,
            "student.ffn: found 65; .* at most the teacher's 64",
        ),
        ({"student": {"start": "teacher", "heads": 2}}, ModelError, "student.heads: found 2; .* the teacher's 4"),
        ({"data": {"max_length": 65}}, ModelError, "data.max_length: found 65; the teacher reads at most 64"),
        ({"corpus": {"length": 65}}, ModelError, "corpus.length: found 65; the teacher reads at most 64"),
        (
            {"layer_map": {"strategy": "explicit", "explicit": [2, 5]}},
            ConfigError,
            r"layer_map.explicit: found \[2, 5\]; expected 2 rising teacher layers between 1 and 4",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(teacher, change, error, message):
    with pytest.raises(error, match=message):
        check(change, teacher)


@pytest.mark.parametrize(
    "layer_map",
    [{}, {"attention": "relations"}, {"relation_heads": 8}, {"attention": "scores", "attention_weight": 0.0}],
)
def test_heads_may_differ_where_no_scores_are_compared(teacher, layer_map):
    check({"student": {"heads": 2}, "layer_map": layer_map}, teacher)


def test_heads_may_differ_where_no_states_are_learnt(teacher):
    off = {"enabled": False}
    check({"student": {"heads": 2}, "layer_map": {"attention": "scores"}, "general": off, "layers": off}, teacher)


def test_a_given_student_is_held_against_map_heads_and_weights(teacher, tmp_path):
    given = tmp_path / "given"
    samples.write_teacher(given, layers=3, hidden=24, heads=3)
    source = {"student": {"source": "file:/given"}}
    check(source, teacher, given)
    check(merge(source, {"layer_map": {"relation_heads": 8}}), teacher, given)
    with pytest.raises(ModelError, match=r"student.source.heads: found 3; .* has, 4"):
        check(merge(source, {"layer_map": {"attention": "scores"}}), teacher, given)
    with pytest.raises(ConfigError, match=r"relation_heads: found 6, .* student's 24 and the teacher's 32; .* of 8"):
        check(merge(source, {"layer_map": {"relation_heads": 6}}), teacher, given)
    with pytest.raises(ConfigError, match=r"layer_map.layer_weights: found 2 for a student of 3 layers"):
        check(merge(source, {"layer_map": {"layer_weights": [1, 2]}}), teacher, given)
    explicit = {"layer_map": {"strategy": "explicit", "explicit": [1, 2, 4], "layer_weights": [1, 2, 3]}}
    check(merge(source, explicit), teacher, given)  # as many as it has layers, not as the form's 2
    with pytest.raises(ConfigError, match=r"layer_map.explicit: found \[2, 4\]; expected 3 rising teacher layers"):
        check(merge(source, {"layer_map": {"strategy": "explicit", "explicit": [2, 4]}}), teacher, given)


def test_augmentation_needs_a_head_to_propose_words(teacher, tmp_path):
    from transformers import AutoModel

    bare = tmp_path / "bare"
    shutil.copytree(teacher, bare)
    AutoModel.from_pretrained(teacher).save_pretrained(bare)
    assert has_mlm_head(teacher)
    assert not has_mlm_head(bare)
    with pytest.raises(ModelError, match=r"no masked language modelling head .* set mlm.enabled to true"):
        check({}, bare)
    check({"mlm": {"enabled": True}}, bare)


def test_another_vocabulary_is_refused(teacher, tmp_path):
    other = tmp_path / "other"
    samples.write_teacher(other)
    check_same_vocabulary(other, teacher)
    content = json.loads((other / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["zebra"] = words.pop("film")
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"vocabulary of the student \(\d+ entries\) differs from the teacher's"):
        check_same_vocabulary(other, teacher)


def test_another_reading_of_the_same_vocabulary_is_refused(teacher, tmp_path):
    other = tmp_path / "other"
    samples.write_teacher(other)
    config = other / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "do_lower_case": False}))
    said = r"reads upper case otherwise than the teacher's: \['.*; distillation compares token by token, so choose a "
    with pytest.raises(ModelError, match=said):
        check({"student": {"source": "file:/other"}}, teacher, other)


@pytest.mark.parametrize("bare", ["student", "teacher"])
def test_a_model_without_a_tokenizer_is_refused(teacher, tmp_path, bare):
    """transformers would give both one without words, and find no difference."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "bert"}')
    pair = {"student": teacher, "teacher": teacher, bare: tmp_path / "bare"}
    with pytest.raises(SourceError, match=r"bare: no tokenizer.json or vocab.txt; a model needs its tokenizer beside"):
        check_same_vocabulary(**pair)


def test_a_directory_that_is_no_model(tmp_path):
    with pytest.raises(SourceError, match=r"no config.json; is this a Hugging Face model directory"):
        check({}, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"config.json: not JSON"):
        check({}, tmp_path)


def test_a_config_of_another_kind_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "num_layers": 6}))
    with pytest.raises(ModelError, match=r"config.json of a t5 has no 'num_hidden_layers'"):
        check({}, tmp_path)


def described(directory, model_type, teacher, **fields):
    """A model directory like the teacher, whose config.json says something else."""
    shutil.copytree(teacher, directory)
    (directory / "config.json").write_text(json.dumps({"model_type": model_type, **fields}))
    return directory


def test_distilbert_names_its_shape_otherwise(teacher, tmp_path):
    distilbert = described(tmp_path / "d", "distilbert", teacher, n_layers=4, dim=32, hidden_dim=64, n_heads=4)
    check({}, distilbert)
    with pytest.raises(ModelError, match=r"student.ffn: found 65; .* the teacher's 64"):
        check({"student": {"start": "teacher", "ffn": 65}}, distilbert)
    with pytest.raises(ConfigError, match=r"student.layers: found 5; the teacher has 4 layers"):
        check({"student": {"layers": 5}}, distilbert)


def test_a_family_that_cannot_be_cut_down_can_be_copied(teacher, tmp_path):
    widths = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    other = described(tmp_path / "other", "convbert", teacher, num_hidden_layers=4, **widths)
    check({"student": {"hidden": 32, "ffn": 64, "start": "teacher"}}, other)
    with pytest.raises(
        ModelError, match=r"hidden: found 16; .* cuts down bert, .*; a convbert it can only copy, .* 32"
    ):
        check({"student": {"start": "teacher"}}, other)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["bad", "good"], None),
        (["good", "bad"], "labels stand in another order: the data has 2 .good, bad., the teacher 2 .bad, good."),
        (["bad", "good", "mixed"], "more classes in the data than the teacher has: the data has 3 .bad, good, mixed."),
        (["bad", "fine"], "labels differ: the data has 2 .bad, fine., the teacher 2 .bad, good."),
    ],
)
def test_labels_of_a_teacher(tmp_path, labels, message):
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "good", "0": "bad"}}))
    if message is None:
        check_teacher_labels(tmp_path, labels)
        return
    with pytest.raises(ModelError, match=message):
        check_teacher_labels(tmp_path, labels)


def outputs(directory, names, **more):
    """A model directory, as far as its outputs go."""
    (directory / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names)), **more}))
    return directory


UNNAMED = ["LABEL_0", "LABEL_1"]


def test_outputs_without_names_need_the_right_number(tmp_path):
    check_teacher_labels(outputs(tmp_path, UNNAMED), ["bad", "good"])
    with pytest.raises(ModelError, match=r"more classes in the data .*: the data has 3 .*, the teacher 2 .LABEL_0, "):
        check_teacher_labels(tmp_path, ["bad", "fair", "good"])


@pytest.mark.parametrize(("kind", "labels"), [("regression", ["score"]), ("question_answering", ["start", "end"])])
def test_of_numbers_and_answers_only_the_number_of_outputs_counts(tmp_path, kind, labels):
    check_teacher_labels(outputs(tmp_path, ["x", "y"][: len(labels)]), labels, kind)
    with pytest.raises(ModelError, match=r"labels differ: the data has .*, the teacher 3 .a, b, c."):
        check_teacher_labels(outputs(tmp_path, ["a", "b", "c"]), labels, kind)


def test_names_are_the_same_whatever_the_case_of_their_letters(tmp_path):
    check_teacher_labels(outputs(tmp_path, ["NEGATIVE", "Positive"]), ["negative", "positive"])


def ordered(taught, found, /, **fields):
    return label_order(taught, found, DataConfig(source="file:x", **fields))


def test_labels_in_another_order_take_the_teachers():
    assert ordered(["neutral", "no", "yes"], ["no", "neutral", "yes"]) == ["neutral", "no", "yes"]
    assert ordered(["POSITIVE", "NEGATIVE"], ["negative", "positive"]) == ["positive", "negative"]
    assert ordered([], ["no", "yes"]) == ["no", "yes"]
    assert ordered(["b", "a"], ["a", "b"], labels=["a", "b"]) == ["b", "a"]


def test_a_teacher_without_names_has_the_order_that_the_form_states():
    assert ordered(UNNAMED, ["yes", "no"], labels=["yes", "no"]) == ["yes", "no"]
    with pytest.raises(ModelError, match=r"outputs have no names: the data has 2 .no, yes., .*; set data.labels in"):
        ordered(UNNAMED, ["no", "yes"])


def test_of_numbers_and_answers_the_order_stays():
    assert ordered(["similarity"], ["score"], kind="regression") == ["score"]
    assert ordered(UNNAMED, ["start", "end"], kind="question_answering") == ["start", "end"]
    with pytest.raises(ModelError, match=r"another number of outputs: the data has 1 .score., the teacher 2"):
        ordered(UNNAMED, ["score"], kind="regression")


def test_a_taggers_first_output_is_that_of_words_outside_of_entities():
    tagger = {"kind": "token_classification"}
    assert ordered(["O", "I-PER", "B-PER"], ["O", "B-PER", "I-PER"], **tagger) == ["O", "I-PER", "B-PER"]
    with pytest.raises(ModelError, match="the teacher's output of 'O' is number 2, and here it must be number 0"):
        ordered(["B-PER", "I-PER", "O"], ["O", "B-PER", "I-PER"], **tagger)


@pytest.mark.parametrize(
    ("taught", "message"),
    [
        (
            ["no", "maybe", "yes"],
            r"another number of outputs: the data has 2 .no, yes., the teacher 3 .no, maybe, yes.",
        ),
        (["no", "ja"], r"labels differ: the data has 2 .no, yes., the teacher 2 .no, ja.; set data.labels to"),
        (["Yes", "yes"], "labels differ: .* the teacher 2 .Yes, yes."),
        (["LABEL_0"], "another number of outputs: .* the teacher 1 .LABEL_0."),
    ],
)
def test_other_labels_than_the_teachers_are_refused(taught, message):
    with pytest.raises(ModelError, match=message):
        ordered(taught, ["no", "yes"], labels=["no", "yes"])


def test_two_outputs_that_nobody_named_stand_in_no_config(teacher, tmp_path):
    """transformers leaves out what its defaults are: then the weights tell a fine-tuned model from a pretrained one."""
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_pretrained(teacher).save_pretrained(tmp_path)
    assert taught_labels(tmp_path) == UNNAMED
    with pytest.raises(ModelError, match=r"teacher.fine_tuned is true, but the teacher has no head for a task; name a"):
        taught_labels(teacher)
    assert taught_labels(outputs(tmp_path, ["z", "a"])) == ["z", "a"]
