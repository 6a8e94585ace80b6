"""Loss curves that a refactoring must reproduce: every distillation stage on tiny material, from a fixed seed.

`layers` is run three times: by scores from a live teacher, by relations, and by scores from states that were kept.

A change that is meant to change numbers (a loss, an initialisation, the order of batches) writes them anew:

    python tests/regression/test_curves.py --write

and the difference of `curves.json` then shows in the commit what it did to training.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from tinybert import corpus as packed
from tinybert import samples
from tinybert.config import GeneralConfig, LayersConfig, LogitsConfig, MapConfig, StudentConfig, TargetsConfig
from tinybert.data import RowWriter, write_manifest
from tinybert.kinds import KINDS
from tinybert.libraries import quiet
from tinybert.stages import general, layers, logits, targets
from tinybert.training_config import OptimConfig

CLASSES = KINDS["classification"]
STORED = Path(__file__).with_name("curves.json")
OPTIM = OptimConfig(steps=90, epochs=20, batch_size=8, learning_rate=2e-3, precision="fp32", dropout=0.0, seed=7)
STUDENT = StudentConfig(layers=2, hidden=16, ffn=32, heads=4)
LAYER_MAP = MapConfig()
CURVES = ["general", "layers", "relations", "kept_states", "logits"]
CLOSE = 1e-3
"""How far each point of each term may be from the stored one, in parts of it: a small term counts as a large one."""


def _teacher(material: Path, directory: Path) -> Path:
    """The tiny BERT with a head, as fine-tuning leaves it but for its untrained weights."""
    torch.manual_seed(3)
    model = BertForSequenceClassification.from_pretrained(material / "teacher", **CLASSES.options(["bad", "good"]))
    torch.nn.init.normal_(model.classifier.weight)  # answers that differ from row to row
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(material / "teacher").save_pretrained(directory)
    return directory


def _data(directory: Path) -> Path:
    rows = samples.sentences()
    for split, chosen in (("train", rows[::2]), ("validation", rows[1::16]), ("test", rows[9::16])):
        with RowWriter(directory / f"{split}.arrow", CLASSES) as writer:
            for number, (text, label) in enumerate(chosen):
                writer.add(text, None, int(label == "good"), number)
    write_manifest(directory, ["bad", "good"], max_length=32)
    return directory


def _corpus(material: Path, directory: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(material / "teacher")
    texts = (material / "corpus.txt").read_text().splitlines()
    sequences = ((sequence, True) for sequence in packed.pack(texts, tokenizer, 24))
    count = packed.write(sequences, 24, directory / "corpus.arrow")
    (directory / "manifest.json").write_text(json.dumps({"sequences": count, "length": 24, "pairs": False}))
    return directory


def curves(material: Path, root: Path) -> dict[str, dict[str, list[float]]]:
    """The points of each stage's curve, by loss term."""
    found: dict[str, dict[str, list[float]]] = {}

    def make(name, stage, **inputs):
        points = found[name] = {}

        def keep(metrics, step):
            for term, value in metrics.items():
                if term == "loss" or term.endswith("_loss"):
                    points.setdefault(term, []).append(value)

        (root / name).mkdir()
        stage.run(out=root / name, on_metrics=keep, **inputs)
        return root / name

    for name in ("data", "corpus"):
        (root / name).mkdir()
    teacher, data = _teacher(material, root / "teacher"), _data(root / "data")
    student = make(
        "general",
        general,
        corpus=_corpus(material, root / "corpus"),
        teacher=material / "teacher",
        student=STUDENT,
        layer_map=LAYER_MAP,
        config=GeneralConfig(optim=OPTIM),
    )
    common, kept = {"data": data, "teacher": teacher}, {"mapped": [2, 4], "attention": "scores"}
    answers = make("targets", targets, config=TargetsConfig(states_gb=1), precision="fp32", **kept, **common)
    general_student, learnt = student, {"config": LayersConfig(optim=OPTIM), **common}
    student = make("layers", layers, student=general_student, layer_map=LAYER_MAP, **learnt)
    make("relations", layers, student=general_student, layer_map=MapConfig(attention="relations"), **learnt)
    make("kept_states", layers, student=general_student, layer_map=LAYER_MAP, targets=answers, **learnt)
    make("logits", logits, student=student, targets=answers, config=LogitsConfig(optim=OPTIM), **common)
    del found["targets"]
    return found


@pytest.fixture(scope="module")
def found(smoke_material, tmp_path_factory):
    return curves(smoke_material, tmp_path_factory.mktemp("curves"))


@pytest.mark.parametrize("stage", CURVES)
def test_training_reproduces_the_stored_curves(found, stage):
    stored = json.loads(STORED.read_text())[stage]
    assert found[stage].keys() == stored.keys()
    for term, points in stored.items():
        assert found[stage][term] == pytest.approx(points, rel=CLOSE, abs=0), (
            f"{term} of {stage} changed; if it was meant to, run `python {Path(__file__).name} --write`"
        )


@pytest.mark.parametrize("stage", CURVES)
def test_the_stored_curves_are_those_of_learning(stage):
    points = json.loads(STORED.read_text())[stage]["loss"]
    assert len(points) == 10  # steps 1, 10, 20 ... 90
    assert points[-1] < 0.9 * points[0]


def test_kept_states_teach_what_the_teacher_does_but_for_their_rounding(found):
    """In bf16, so never quite the same: were they not read, the curves would be."""
    for term, points in found["layers"].items():
        assert found["kept_states"][term] != points
        assert found["kept_states"][term] == pytest.approx(points, rel=2e-3, abs=0)


def write() -> None:
    """Store the curves of the code as it stands."""
    quiet()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        samples.write(root / "material")
        (root / "out").mkdir()
        found = curves(root / "material", root / "out")
    rounded = {s: {t: [float(f"{p:.6g}") for p in points] for t, points in terms.items()} for s, terms in found.items()}
    lines = [
        f'"{stage}": {{\n' + ",\n".join(f'  "{term}": {points}' for term, points in terms.items()) + "\n}"
        for stage, terms in rounded.items()
    ]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/regression/test_curves.py --write")
    write()
