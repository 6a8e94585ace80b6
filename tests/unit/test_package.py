"""A package holds what the gate kept, calibrated, and says in its card where it comes from and where it ends."""

import json
import shutil

import pytest
import yaml

from tests.unit.exported import PAIRED, altered, exported, served, write_data
from tinybert.config import DistillConfig
from tinybert.digest import content_digest, list_files
from tinybert.errors import ModelError
from tinybert.kinds import kind_of
from tinybert.released import Released
from tinybert.serving import Student
from tinybert.stages import package

CONFIG = DistillConfig.model_validate(
    {
        "name": "reviews",
        "data": {"source": "file:/data/reviews.csv"},
        "teacher": {"source": "hub:somebody/teacher@main"},
        "general": {"enabled": False},
        "logits": {"temperature": 3.5},
        "publish": {"name": "review-mood"},
    }
)
NUMBERS = {"accuracy": 0.912, "accuracy_low": 0.9, "accuracy_high": 0.924}
RECALLS = {"bad": (0.95, 120), "good": (0.93, 110), "neither": (0.4, 20)}
TEMPERATURES = {"teacher": 1.0, "student": 1.25, "onnx": 1.5, "int8": 1.75}


def write_json(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def write_decision(directory, served="int8", kept=("int8", "onnx", "torch")):
    fates = {name: {"kept": name in kept, "reason": "as good"} for name in ("int8", "onnx", "torch")}
    write_json(directory / "decision.json", {"served": served, "variants": fates})
    (directory / "decision.md").write_text(
        "# Promoted\n\nIt is better.\n\n| rule | result |\n|---|---|\n| size | pass |\n"
    )


@pytest.fixture
def sources(tmp_path):
    """The directories a package is made of."""
    report, decision, teacher = (tmp_path / name for name in ("report", "decision", "teacher"))
    models = dict.fromkeys(TEMPERATURES, NUMBERS)
    circumstances = {"rows": 250, "test_is_validation": False, "confidence": 0.95}
    circumstances |= {"kind": "classification", "metric": "accuracy", "metrics": ["accuracy"]}
    write_json(report / "comparison.json", {**models, **circumstances})
    (report / "comparison.md").write_text("| | accuracy |\n|---|---|\n| int8 | 91.2% |\n")
    classes = {label: {"recall": recall, "support": support} for label, (recall, support) in RECALLS.items()}
    write_json(report / "classes.json", dict.fromkeys(TEMPERATURES, classes))
    calibration = {name: {"temperature": t, "ece": 0.08, "ece_calibrated": 0.02} for name, t in TEMPERATURES.items()}
    write_json(report / "calibration.json", calibration)
    write_decision(decision)
    teacher.mkdir()
    (teacher / "README.md").write_text("---\nlicense: mit\nlanguage:\n- en\n- de\nwidget: x\n---\n# A teacher\n")
    return {
        "data": exported().data,
        "teacher": teacher,
        "student": exported().out,
        "report": report,
        "decision": decision,
    }


def make(sources, out, config=CONFIG):
    out.mkdir()
    return package.run(**sources, config=config, out=out, on_metrics=lambda *_: None)


def test_variants_that_were_not_kept_are_left_out(sources, tmp_path):
    write_decision(sources["decision"], served="onnx", kept=("onnx", "torch"))
    metrics = make(sources, tmp_path / "out")
    released = Released.read(tmp_path / "out")
    assert released.default == "onnx"
    assert {name: variant.temperature for name, variant in released.variants.items()} == {"torch": 1.25, "onnx": 1.5}
    files = list_files(tmp_path / "out")
    own = {"evaluation.json", "decision.json"}
    assert files.keys() == list_files(exported().out).keys() - {"onnx/model_int8.onnx"} | own
    assert metrics == {"variants": 2.0, "megabytes": files["onnx/model.onnx"].size / 1e6, "temperature": 1.5}


def test_a_package_answers_with_calibrated_probabilities(sources, tmp_path):
    make(sources, tmp_path / "out")
    packaged, plain = Student.load(tmp_path / "out"), Student.load(exported().out)
    one, other = (model.answer(["the film"], ["a story"])[0].chances for model in (packaged, plain))
    powers = {label: chance ** (1 / 1.75) for label, chance in other.items()}
    assert one == pytest.approx({label: power / sum(powers.values()) for label, power in powers.items()}, abs=1e-6)


def test_torch_stays_for_machines_without_onnx(sources, tmp_path):
    write_decision(sources["decision"], served="int8", kept=("int8",))
    make(sources, tmp_path / "out")
    assert list(Released.read(tmp_path / "out").variants) == ["torch", "int8"]


def test_evidence_lies_beside_the_weights(sources, tmp_path):
    make(sources, tmp_path / "out")
    for name, original in (("evaluation", "report/comparison"), ("decision", "decision/decision")):
        assert (tmp_path / "out" / f"{name}.json").read_text() == (tmp_path / f"{original}.json").read_text()


def test_the_same_inputs_give_the_same_package(sources, tmp_path):
    make(sources, tmp_path / "one")
    make(sources, tmp_path / "two")
    assert content_digest(tmp_path / "one") == content_digest(tmp_path / "two")


def card(sources, tmp_path, config=CONFIG):
    make(sources, tmp_path / "out", config)
    _, matter, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(matter), text


def test_the_card_takes_licence_and_languages_from_the_teacher(sources, tmp_path):
    matter, text = card(sources, tmp_path)
    assert matter == {
        "base_model": "somebody/teacher",
        "language": ["en", "de"],
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-classification",
        "tags": ["tinybert", "distillation"],
    }
    assert "Languages: en, de." in text


@pytest.mark.parametrize("readme", [None, "# No matter", "---\nlicense: [\n---\n", "---\njust words\n---\n", "---\n"])
def test_a_teacher_that_says_nothing_of_its_licence(sources, tmp_path, readme):
    (sources["teacher"] / "README.md").unlink()
    if readme is not None:
        (sources["teacher"] / "README.md").write_text(readme)
    matter, text = card(sources, tmp_path)
    assert "license" not in matter
    assert "Languages: not recorded" in text


def test_the_card_names_limits_origin_and_use(sources, tmp_path):
    _, text = card(sources, tmp_path)
    for sentence in (
        "# reviews",
        "sorts pairs of texts into 3 labels: `bad`, `good`, `neither`.",
        "Distilled from `hub:somebody/teacher@main`.",
        "Variants: torch, onnx, int8; `int8` answers where none is named.",
        "Reads 16 tokens",
        "Accuracy 91.2% on 250 test rows (95% interval 90.0% to 92.4%).",
        "Weak classes, by recall: `neither` 40.0% of 20.",
        "by a temperature of 1.75, fitted on the validation rows",
        "| int8 | 91.2% |",
        "## Promoted\n\nIt is better.",
        f"`{content_digest(exported().data)}`",
        f"`{content_digest(exported().out)}`",
        'student = Student.load("DIRECTORY")\nstudent.answer(["A text to classify"], pairs=["Its pair"])',
        'pipeline("text-classification", model="DIRECTORY", truncation=True)',
        'mlflow.pyfunc.load_model("models:/review-mood@champion")\nmodel.predict([["A text to classify", "Its pair"]])',
    ):
        assert sentence in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert recipe["logits"]["temperature"] == 3.5
    assert not recipe.keys() & {"gate", "publish", "evaluate", "launch"}


def test_the_card_says_when_scores_are_flattered(sources, tmp_path):
    comparison = json.loads((sources["report"] / "comparison.json").read_text())
    write_json(sources["report"] / "comparison.json", {**comparison, "test_is_validation": True})
    _, text = card(sources, tmp_path)
    assert "on 250 validation rows" in text
    assert "fitted on the same rows" in text


def test_a_single_text_model_is_shown_with_single_texts(sources, tmp_path):
    sources["student"] = altered(tmp_path / "single", pair=False)
    _, text = card(
        sources, tmp_path, CONFIG.model_copy(update={"publish": CONFIG.publish.model_copy(update={"name": None})})
    )
    assert 'student.answer(["A text to classify"])' in text
    assert 'mlflow.pyfunc.load_model("models:/reviews@champion")\nmodel.predict(["A text to classify"])' in text


def test_a_decision_about_another_student_is_refused(sources, tmp_path):
    student = tmp_path / "student"
    shutil.copytree(exported().out, student)
    released = Released.read(student)
    variants = {name: variant for name, variant in released.variants.items() if name != "int8"}
    released.model_copy(update={"variants": variants, "default": "onnx"}).write(student)
    with pytest.raises(ModelError, match=r"serves 'int8', but the student was exported and kept as torch, onnx"):
        make({**sources, "student": student}, tmp_path / "out")


KINDS = {
    "multi_label": (
        "f1_micro",
        "gives texts any number of 3 labels: `bad`, `good`, `neither`.",
        "Micro F1 90.0% on 250 test rows (95% interval 88.0% to 92.0%).",
        'pipeline("text-classification", model="DIRECTORY", truncation=True, top_k=None)',
    ),
    "regression": (
        "pearson",
        "gives texts a number: `stars`.",
        "Pearson correlation 90.0% on 250 test rows (95% interval 88.0% to 92.0%).",
        "# columns: value, truncated, error",
    ),
    "token_classification": (
        "entity_f1",
        "tags the words of texts with 4 tags: `O`, `B-MOOD`, `B-THING`, `I-THING`.",
        "Entity F1 90.0% on 250 test rows (95% interval 88.0% to 92.0%).",
        'pipeline("token-classification", model="DIRECTORY", aggregation_strategy="first")',
    ),
    "question_answering": (
        "answer_f1",
        "finds answers to questions in the texts given with them.",
        "Answer F1 90.0% on 250 test rows (95% interval 88.0% to 92.0%).",
        "Reads 16 tokens at once, a longer text in parts of that length that overlap.",
    ),
}
"""Of each other kind its score, and sentences of its card."""


def of_kind(kind, sources, directory):
    """What a package of a student of another kind is made of; its answers are not calibrated, and it has no classes."""
    score = KINDS[kind][0]
    numbers = {score: 0.9, f"{score}_low": 0.88, f"{score}_high": 0.92}
    circumstances = {"rows": 250, "test_is_validation": False, "confidence": 0.95, "kind": kind, "metric": score}
    write_json(sources["report"] / "comparison.json", {"student": numbers, **circumstances})
    write_json(sources["report"] / "classes.json", {"student": {}})
    write_json(sources["report"] / "calibration.json", {})
    write_decision(sources["decision"], served="torch", kept=("torch",))
    return {**sources, "student": served(kind), "data": write_data(directory, kind in PAIRED, kind)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_any_kind_is_packaged_with_a_card_of_its_own(kind, sources, tmp_path):
    sources = of_kind(kind, sources, tmp_path / "data")
    metrics = make(sources, tmp_path / "out")
    assert metrics.keys() == {"variants", "megabytes"}
    released = Released.read(tmp_path / "out")
    assert (released.kind, released.variants["torch"].temperature) == (kind, 1.0)
    _, matter, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(matter)["pipeline_tag"] == kind_of(kind).pipeline
    for sentence in KINDS[kind][1:]:
        assert sentence in text
    assert "temperature of" not in text
    assert "Weak classes" not in text
    assert "No class is" not in text


def test_a_package_that_does_not_answer_is_refused(sources, tmp_path):
    """It wants pairs, and the data has single texts."""
    sources = of_kind("regression", sources, tmp_path / "data")
    student = tmp_path / "student"
    shutil.copytree(sources["student"], student)
    Released.read(student).model_copy(update={"pair": True}).write(student)
    with pytest.raises(ModelError, match=r"the package does not answer .*text_pair is missing; .*export the student"):
        make({**sources, "student": student}, tmp_path / "out")
