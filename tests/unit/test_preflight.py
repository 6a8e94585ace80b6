"""What a look before a run finds: as many rows and sequences as there will be, and how fast they go."""

import json

import pytest
import torch

from tinybert import preflight, samples, warm_up
from tinybert.augmentation.copies import copies_for
from tinybert.cli import validated
from tinybert.config import DistillConfig
from tinybert.corpus import Corpus
from tinybert.errors import DataError, QualityError
from tinybert.estimate_encoder import Encoder
from tinybert.form import merge
from tinybert.preflight import Splits, check_sample, counted, encoders, glimpsed
from tinybert.rows import task_rows
from tinybert.stages import corpus as corpus_stage
from tinybert.stages import prepare
from tinybert.training_config import OptimConfig

SENTENCES = len(samples.sentences())


@pytest.fixture
def form(smoke_material):
    def form(**change):
        values = {
            "name": "mood",
            "data": {"source": "file:/rows.csv", "max_length": 16, "validation_share": 0.25},
            "teacher": {"source": "file:/teacher"},
            "student": {"layers": 2, "hidden": 16, "ffn": 32, "heads": 4},
            "corpus": {"source": "file:/corpus.txt", "length": 16},
            "augment": {"copies": 2, "recipes": [{"kind": "swap", "copies": 3}]},
        }
        return validated(DistillConfig, merge(values, change))

    return form


@pytest.fixture
def look(smoke_material):
    """Glimpses at rows, those of the samples where no others are given."""
    teacher, corpus = smoke_material / "teacher", smoke_material / "corpus.txt"

    def look(config, source=None, **splits):
        return glimpsed(config, Splits(source or smoke_material / "rows.csv", **splits), teacher, None, corpus)

    return look


def write(path, rows, header="text,label"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def prepared(config, material, out):
    out.mkdir()
    prepare.run(source=material / "rows.csv", config=config.data, out=out, on_metrics=lambda metrics, step: None)
    return out


# Rows -----------------------------------------------------------------------------------------------------------------


def test_a_glimpse_tells_the_rows_that_prepare_will_have(form, look, smoke_material, tmp_path):
    config = form()
    directory = prepared(config, smoke_material, tmp_path / "prepared")
    told, really = look(config), counted(config, directory, smoke_material / "teacher", None, None)
    for split in ("train", "validation", "test"):
        assert getattr(told, split) == pytest.approx(getattr(really, split), abs=2)
    assert told.train + told.validation + told.test == pytest.approx(SENTENCES, abs=2)
    assert told.tokens == pytest.approx(really.tokens, rel=0.05)
    assert (told.exact, really.exact) == (False, True)
    assert told.copies == really.copies == 5


def test_counts_of_prepared_rows_are_those_of_the_real_token_table(form, smoke_material, tmp_path):
    config = form()
    directory = prepared(config, smoke_material, tmp_path / "prepared")
    found = counted(config, directory, smoke_material / "teacher", None, None)
    rows = task_rows(preflight.TaskData(directory), preflight.load_tokenizer(smoke_material / "teacher"))
    assert (found.train, found.features, found.outputs) == (len(rows), 1.0, 2)
    assert found.tokens == pytest.approx(rows.lengths.mean())


def test_copies_follow_from_the_rows_where_the_form_names_none(form, look):
    found = look(form(augment={"copies": None, "recipes": []}))
    assert found.copies == copies_for(found.train, None) == 30
    assert look(form(augment={"enabled": False})).copies == 0


def test_splits_of_their_own_are_counted(form, look, tmp_path):
    paths = {
        split: write(tmp_path / f"{split}.csv", [f"film {n},good" for n in range(rows)])
        for split, rows in (("train", 30), ("validation", 7), ("test", 5))
    }
    found = look(form(), tmp_path)
    assert (found.train, found.validation, found.test, found.outputs) == (30, 7, 5, 2)
    assert look(form(), paths["train"], validation=paths["validation"], test=paths["test"]) == found


def test_an_unlabelled_test_split_is_none(form, look, tmp_path):
    write(tmp_path / "train.csv", [f"film {n},good" for n in range(30)])
    write(tmp_path / "validation.csv", [f"film {n},good" for n in range(8)])
    write(tmp_path / "test.csv", ["film 1,-1", "film 2,-1"])
    found = look(form(), tmp_path)
    assert (found.validation, found.test) == (4, 4)  # halves of the held-out rows
    write(tmp_path / "test.csv", ["film 1"], header="text")
    assert look(form(), tmp_path) == found


def test_rows_at_most(form, look):
    found = look(form(data={"rows": 20, "validation_rows": 4, "test_rows": 6}))
    assert (found.train, found.validation, found.test) == (20, 4, 6)


def test_of_rows_too_many_to_count_the_lines_are_told_from_the_first_of_them(form, look, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "COUNTING", 0.0)
    monkeypatch.setattr(preflight, "HEAD", 4096)
    write(tmp_path / "train.csv", [f"film {n:05},good" for n in range(9000)])
    found = look(form(), tmp_path)
    assert found.train + found.validation + found.test == pytest.approx(9000, rel=0.02)
    assert not found.exact


def test_rows_that_cannot_be_read_are_refused(form, look):
    with pytest.raises(DataError, match=r"rows.csv: no column 'mood'; it has label, text"):
        look(form(data={"label": "mood"}))
    with pytest.raises(DataError, match=r"no row to train on; check .* data.where"):
        look(form(data={"where": {"label": "neither"}}))


@pytest.mark.parametrize("sequences", [None, 10])
def test_sequences_of_a_corpus(form, look, smoke_material, tmp_path, nowhere, sequences):
    config = form(corpus={"sequences": sequences})
    tokenizer, source = smoke_material / "teacher", smoke_material / "corpus.txt"
    corpus_stage.run(source=source, tokenizer=tokenizer, config=config.corpus, out=tmp_path, on_metrics=nowhere)
    assert look(config).sequences == pytest.approx(Corpus(tmp_path).manifest["sequences"], abs=1)


def test_states_are_counted_where_they_are_wanted(form, look):
    found = look(form(targets={"states_gb": 1.0}, layer_map={"attention_weight": 0.0}))
    assert found.state_bytes == pytest.approx(2 * 3 * 32 * found.tokens)  # bf16, two layers and the embedding
    assert look(form()).state_bytes == 0


def test_the_student_has_the_teachers_vocabulary_or_is_the_given_one(form, smoke_material):
    teacher = smoke_material / "teacher"
    taught, student = encoders(form(), teacher, None)
    assert (student.layers, student.hidden, student.vocabulary) == (2, 16, taught.vocabulary)
    other = smoke_material / "kinds" / "teacher"
    assert encoders(form(), teacher, other)[1] == Encoder.of(json.loads((other / "config.json").read_text()))


def test_a_teacher_that_knows_nothing_is_below_the_floor(form, smoke_material, tmp_path):
    from transformers import AutoModelForSequenceClassification

    directory = prepared(form(), smoke_material, tmp_path / "prepared")
    teacher = tmp_path / "teacher"
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(smoke_material / "teacher")
    model.save_pretrained(teacher)
    preflight.load_tokenizer(smoke_material / "teacher").save_pretrained(teacher)
    with pytest.raises(QualityError, match=r"teacher's accuracy on validation is .* fine_tune.floor"):
        check_sample(directory, teacher, "fp32", 0.3)
    score = check_sample(directory, teacher, "fp32", -1.0)
    rows = preflight.TaskData(directory).rows("validation")
    constant = max(rows["label"][:].count(0), rows["label"][:].count(1)) / len(rows)
    assert score == pytest.approx(constant, abs=0.3)


# Speed ----------------------------------------------------------------------------------------------------------------


def test_a_warm_up_takes_ten_steps_of_the_forms_batch_and_leaves_random_numbers_alone(smoke_material):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = warm_up.measure(smoke_material / "teacher", OptimConfig(batch_size=8, precision="fp32"), 16, 3.0)
    torch.testing.assert_close(torch.rand(3), expected)
    assert (found.steps, found.rows, found.length, found.bf16) == (10, 8, 16, False)
    assert found.flops > 1e6
    assert "10 steps of 8 rows of 16 tokens" in str(found)


def test_a_warm_up_without_time_is_one_row(smoke_material):
    found = warm_up.measure(smoke_material / "teacher", OptimConfig(batch_size=8), 16, 0.0)
    assert (found.steps, found.rows) == (1, 1)


def test_operations_over_seconds_are_the_speed(smoke_material, monkeypatch):
    shape = Encoder(layers=1, hidden=2, ffn=4, heads=1, vocabulary=10, positions=3)  # 264 operations for 3 tokens
    monkeypatch.setattr(warm_up, "_step", lambda *_: (shape, lambda rows: 0.25 * rows))
    found = warm_up.measure(smoke_material / "teacher", OptimConfig(batch_size=4), 3, 100.0)
    assert found.flops == pytest.approx(3 * 4 * 264 / 1.0)


def test_memory_of_a_container_is_what_its_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(warm_up, "_CGROUP", tmp_path)
    machine = warm_up.free_memory()
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000\ninactive_file 500000\n")
    assert warm_up.free_memory() == (2_500_000 if not torch.cuda.is_available() else machine)
    (tmp_path / "memory.max").write_text("max\n")
    assert warm_up.free_memory() > 2_500_000
