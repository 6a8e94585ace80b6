"""Each stage on tiny real material, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from tinybert.config import (
    AugmentConfig,
    BaselineConfig,
    CorpusConfig,
    DataConfig,
    ExportConfig,
    FineTuneConfig,
    GeneralConfig,
    LayersConfig,
    LogitsConfig,
    MapConfig,
    MlmConfig,
    QualityConfig,
    StudentConfig,
    TargetsConfig,
)
from tinybert.corpus import Corpus, PackedRows, pack, write
from tinybert.data import TaskData
from tinybert.distillation import PROJECTIONS
from tinybert.errors import DataError, ModelError, QualityError
from tinybert.stages import (
    augment,
    baseline,
    corpus,
    export,
    fine_tune,
    gather,
    general,
    layers,
    logits,
    mlm,
    prepare,
    screen,
    targets,
)
from tinybert.training_config import OptimConfig, SelectionConfig

OPTIM = OptimConfig(epochs=1, steps=4, batch_size=8, learning_rate=1e-3)
STUDENT = StudentConfig(layers=2, hidden=16, ffn=32, heads=4)


def silent(metrics, step):
    assert all(isinstance(value, float) for value in metrics.values())


@pytest.fixture(scope="module")
def made(smoke_material, tmp_path_factory):
    """Every stage's output directory, made once in the pipeline's order, and its metrics."""
    root = tmp_path_factory.mktemp("stages")
    teacher, outputs, metrics = smoke_material / "teacher", {"teacher": smoke_material / "teacher"}, {}

    def make(name, stage, **inputs):
        out = outputs[name] = root / name / "out"
        out.mkdir(parents=True)
        metrics[name] = stage.run(**inputs, out=out, on_metrics=silent)
        return out

    rows, text, vectors = (smoke_material / name for name in ("rows.csv", "corpus.txt", "vectors.txt"))
    data = make("prepare", prepare, source=rows, config=DataConfig(source="file:x", rows=120, max_length=16))
    packed = make("corpus", corpus, source=text, tokenizer=teacher, config=CorpusConfig(length=16))
    adapted = make("mlm", mlm, corpus=packed, teacher=teacher, config=MlmConfig(optim=OPTIM))
    tuning = FineTuneConfig(floor=0.3, optim=OptimConfig(epochs=12, batch_size=8, learning_rate=3e-3))
    tuned = make("fine_tune", fine_tune, data=data, teacher=teacher, config=tuning)
    shape = {"student": STUDENT, "layer_map": MapConfig()}
    start = make("general", general, corpus=packed, teacher=teacher, **shape, config=GeneralConfig(optim=OPTIM))
    augmenting = AugmentConfig(copies=2, candidates=4)
    copies = [
        make(f"augment {shard}", augment, data=data, model=adapted, vectors=vectors, config=augmenting, **place)
        for shard, place in enumerate([{"shard": 0, "shards": 2}, {"shard": 1, "shards": 2}])
    ]
    more = make("gather", gather, data=data, copies=copies, config=QualityConfig())
    said = make("targets", targets, data=more, teacher=tuned, config=TargetsConfig(states_gb=1), mapped=[2, 4])
    kept = make("screen", screen, data=more, targets=said, config=QualityConfig())
    taught = {"data": kept, "teacher": tuned, "targets": said}
    inner = LayersConfig(optim=OPTIM)
    middle = make("layers", layers, **taught, student=start, layer_map=MapConfig(), config=inner)
    outer = LogitsConfig(optim=OptimConfig(epochs=4, batch_size=8, learning_rate=3e-3))
    final = make("logits", logits, **taught, student=middle, config=outer)
    make("export", export, data=data, student=final, config=ExportConfig(onnx=False, int8=False))
    make(
        "baseline",
        baseline,
        data=data,
        student=start,
        optim=outer.optim,
        selection=SelectionConfig(),
        config=BaselineConfig(),
        steps=6,
    )
    return outputs, metrics


def test_packing_by_hand():
    class Letters:
        cls_token_id, sep_token_id = 1, 2

        def __call__(self, texts, **_):
            return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    # "abc" and "de" joined by separators: a b c 2 d e 2, cut into threes; the last, 2, is dropped.
    expected = [[1, *map(ord, "abc"), 2], [1, 2, ord("d"), ord("e"), 2]]
    assert list(pack(["abc", "de"], Letters(), length=5)) == expected


def test_corpus(made):
    outputs, metrics = made
    packed = Corpus(outputs["corpus"])
    rows = packed.rows()
    tokenizer = AutoTokenizer.from_pretrained(outputs["teacher"])
    assert metrics["corpus"]["sequences"] == len(rows) == packed.manifest["sequences"]
    ids = all_ids(rows)
    assert ids.shape == (len(rows), 16)
    assert (ids[:, 0] == tokenizer.cls_token_id).all()
    assert metrics["corpus"]["tokens"] == 16 * len(rows)


def all_ids(rows):
    return rows.batch(np.arange(len(rows)), torch.Generator())["input_ids"]


def test_a_corpus_too_short_for_one_sequence(made, smoke_material, tmp_path):
    (tmp_path / "short.txt").write_text("the film\n")
    with pytest.raises(DataError, match=r"short.txt: less text than one sequence of 64 tokens; shorten corpus.length"):
        corpus.run(
            source=tmp_path / "short.txt",
            tokenizer=smoke_material / "teacher",
            config=CorpusConfig(length=64),
            out=tmp_path,
            on_metrics=silent,
        )


def test_mlm_masks_as_bert_does(smoke_material, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(smoke_material / "teacher")
    ids = [tokenizer.cls_token_id, *([20, 21, 22, 23] * 250), tokenizer.sep_token_id]
    write([(ids, True)] * 40, len(ids), tmp_path / "corpus.arrow")
    rows = mlm.MaskedRows(PackedRows(tmp_path / "corpus.arrow", 40), tokenizer, 0.15)
    batch = rows.batch(np.arange(40), torch.Generator().manual_seed(0))
    chosen = batch["labels"] != mlm.IGNORED
    original = torch.tensor(ids).expand(40, -1)
    masked = (batch["input_ids"] == tokenizer.mask_token_id) & chosen
    kept = (batch["input_ids"] == original) & chosen
    count = chosen.sum().item()
    assert batch["masked_tokens"].tolist() == [pytest.approx(count / 40)] * 40
    assert count / (40 * 1000) == pytest.approx(0.15, abs=0.01)
    assert masked.sum().item() / count == pytest.approx(0.8, abs=0.02)
    assert kept.sum().item() / count == pytest.approx(0.1, abs=0.02)
    assert torch.equal(batch["input_ids"][~chosen], original[~chosen])
    assert not chosen[:, 0].any()
    assert torch.equal(batch["labels"][chosen], original[chosen])


def test_mlm_grows_a_head_that_knows_the_frequencies(smoke_material, made, tmp_path):
    from transformers import AutoModel

    bare = tmp_path / "bare"
    AutoModel.from_pretrained(smoke_material / "teacher").save_pretrained(bare)
    AutoTokenizer.from_pretrained(smoke_material / "teacher").save_pretrained(bare)
    out = tmp_path / "mlm" / "out"
    out.mkdir(parents=True)
    steps = OPTIM.model_copy(update={"steps": 1, "learning_rate": 1e-9})
    mlm.run(corpus=made[0]["corpus"], teacher=bare, config=MlmConfig(optim=steps), out=out, on_metrics=silent)
    ids = all_ids(Corpus(made[0]["corpus"]).rows()).flatten()
    bias = AutoModelForMaskedLM.from_pretrained(out).get_output_embeddings().bias
    counts = ids.bincount()
    often = int(counts.argmax())
    assert bias[often].item() == pytest.approx(math.log(counts[often] / len(ids)), abs=0.05)


def test_mlm_and_general_lower_their_loss(made, smoke_material, tmp_path):
    curves = {}
    for name, stage, inputs in (
        ("mlm", mlm, {"config": MlmConfig(optim=OPTIM.model_copy(update={"steps": 60, "epochs": 9}))}),
        (
            "general",
            general,
            {
                "student": STUDENT,
                "layer_map": MapConfig(),
                "config": GeneralConfig(optim=OPTIM.model_copy(update={"steps": 60, "epochs": 9})),
            },
        ),
    ):
        out = tmp_path / name / "out"
        out.mkdir(parents=True)
        curve = curves[name] = []
        stage.run(
            corpus=made[0]["corpus"],
            teacher=smoke_material / "teacher",
            **inputs,
            out=out,
            on_metrics=lambda metrics, step, curve=curve: curve.append(metrics["loss"]),
        )
    assert all(curve[-1] < curve[0] for curve in curves.values()), curves


def test_the_teacher_must_pass_its_floor(made, tmp_path):
    hopeless = FineTuneConfig(floor=0.05, optim=OPTIM.model_copy(update={"steps": 1, "learning_rate": 1e-9}))
    with pytest.raises(
        QualityError, match=r"accuracy on validation is [45]\d\.\d%; always giving the same answer reaches 5"
    ):
        fine_tune.run(
            data=made[0]["prepare"],
            teacher=made[0]["teacher"],
            config=hopeless.model_copy(update={"floor": 0.3}),
            out=tmp_path / "out",
            on_metrics=silent,
        )


def test_a_student_started_from_the_teacher_has_its_mapped_layers(made, smoke_material, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    shape = StudentConfig(layers=2, hidden=32, ffn=64, heads=4, start="teacher")
    metrics = general.run(
        teacher=smoke_material / "teacher",
        student=shape,
        layer_map=MapConfig(),
        config=GeneralConfig(enabled=False),
        out=out,
        on_metrics=silent,
    )
    assert metrics == {}
    student = load_file(out / "model.safetensors")
    teacher = load_file(smoke_material / "teacher" / "model.safetensors")
    for own, taught in ((0, 1), (1, 3)):  # layers 2 and 4 of the teacher, counted from 0
        name = "encoder.layer.{}.attention.self.query.weight"
        assert torch.equal(student[name.format(own)], teacher[f"bert.{name.format(taught)}"])
    assert torch.equal(student["embeddings.word_embeddings.weight"], teacher["bert.embeddings.word_embeddings.weight"])
    assert not (out / PROJECTIONS).exists()


def test_a_student_cut_out_of_the_teacher_brings_the_way_back_as_projections(smoke_material, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    general.run(
        teacher=smoke_material / "teacher",
        student=StudentConfig(layers=2, hidden=16, ffn=32, heads=4, start="teacher"),
        layer_map=MapConfig(),
        config=GeneralConfig(enabled=False),
        out=out,
        on_metrics=silent,
    )
    matrices = list(load_file(out / PROJECTIONS).values())
    assert [matrix.shape for matrix in matrices] == 3 * [(32, 16)]
    student, teacher = (AutoModel.from_pretrained(path).eval() for path in (out, smoke_material / "teacher"))
    ids = torch.tensor([[2, 30, 31, 32, 3]])
    with torch.no_grad():
        own, taught = (model(ids, output_hidden_states=True).hidden_states[0] for model in (student, teacher))
    missed = (own @ matrices[0].T - taught).square().sum() / taught.square().sum()
    assert missed < 0.3  # any half of the directions misses half of random states


def test_augmentation_adds_copies_of_training_rows_only(made):
    outputs, metrics = made
    before, after = TaskData(outputs["prepare"]), TaskData(outputs["screen"])
    originals, rows = before.rows("train"), after.rows("train")
    asked = metrics["augment 0"]["asked"] + metrics["augment 1"]["asked"]
    assert asked == 2 * len(originals) == metrics["screen"]["asked"]
    assert metrics["screen"]["kept"] == len(rows) - len(originals) > 0.3 * asked
    assert rows[: len(originals)]["text"] == originals["text"][:]
    labels = dict(zip(originals["origin"], originals["label"], strict=True))
    texts = dict(zip(originals["origin"], originals["text"], strict=True))
    for row in list(rows)[len(originals) :]:
        assert row["label"] == labels[row["origin"]]
        assert row["text"] != texts[row["origin"]]
    assert after.rows("validation")["text"][:] == before.rows("validation")["text"][:]
    assert not set(rows["text"]) & set(before.rows("validation")["text"])


def test_projections_travel_from_general_to_layers_and_no_further(made):
    outputs, _ = made
    assert (outputs["general"] / PROJECTIONS).exists()
    assert (outputs["layers"] / PROJECTIONS).exists()
    assert not (outputs["logits"] / PROJECTIONS).exists()
    assert not (outputs["export"] / PROJECTIONS).exists()


def test_the_exported_student_has_its_shape_and_no_projections_inside(made):
    outputs, metrics = made
    model = AutoModelForSequenceClassification.from_pretrained(outputs["export"])
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (2, 16)
    names = set(load_file(outputs["export"] / "model.safetensors"))
    assert not {name for name in names if "projection" in name or "matrices" in name}
    assert metrics["export"]["parameters"] == model.num_parameters()


def test_the_head_is_taken_over_where_widths_agree(made, tmp_path):
    outputs, _ = made
    teacher = AutoModelForSequenceClassification.from_pretrained(outputs["fine_tune"])
    wide = AutoModelForSequenceClassification.from_pretrained(outputs["teacher"], num_labels=2)
    assert logits.take_over_head(wide, teacher)
    assert torch.equal(wide.classifier.weight, teacher.classifier.weight)
    assert torch.equal(wide.bert.pooler.dense.weight, teacher.bert.pooler.dense.weight)
    narrow = AutoModelForSequenceClassification.from_pretrained(outputs["general"], num_labels=2)
    before = narrow.classifier.weight.clone()
    assert not logits.take_over_head(narrow, teacher)
    assert torch.equal(narrow.classifier.weight, before)


def test_logits_refuses_a_teacher_of_other_labels(made, tmp_path, smoke_material):
    outputs, _ = made
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"film {i},{('x', 'y', 'z')[i % 3]}\n" for i in range(30)))
    data = tmp_path / "data"
    data.mkdir()
    prepare.run(source=rows, config=DataConfig(source="file:x"), out=data, on_metrics=silent)
    with pytest.raises(ModelError, match="more classes in the data than the teacher has: the data has 3"):
        logits.run(
            data=data,
            teacher=outputs["fine_tune"],
            student=outputs["layers"],
            targets=outputs["targets"],
            config=LogitsConfig(),
            out=tmp_path / "out",
            on_metrics=silent,
        )


def test_baseline_takes_the_steps_it_is_given(made):
    outputs, metrics = made
    assert metrics["baseline"]["steps"] == 6
    shape = json.loads((outputs["baseline"] / "config.json").read_text())
    assert (shape["num_hidden_layers"], shape["hidden_size"], shape["id2label"]) == (2, 16, {"0": "bad", "1": "good"})


def test_training_stages_report_steps_and_scores(made):
    _, metrics = made
    assert metrics["fine_tune"]["validation_accuracy"] > 0.8
    assert metrics["layers"]["steps"] == metrics["general"]["steps"] == 4
    assert {"loss", "seconds", "examples_per_second", "validation_f1_macro"} <= metrics["logits"].keys()


def test_a_teacher_stored_in_half_precision_is_trained_in_full(smoke_material, tmp_path):
    from tinybert.kinds import KINDS
    from tinybert.models import load_encoder, load_model
    from tinybert.student import build_student

    half = tmp_path / "half"
    AutoModelForMaskedLM.from_pretrained(smoke_material / "teacher").to(torch.float16).save_pretrained(half)
    wide = StudentConfig(layers=2, hidden=32, ffn=64, heads=4, start="teacher")
    models = [load_encoder(half), load_model(half, KINDS["classification"], ["a", "b"])]
    models += [build_student(shape, half, [2, 4], seed=0)[0] for shape in (wide, STUDENT)]
    assert all(p.dtype == torch.float32 for model in models for p in model.parameters())
