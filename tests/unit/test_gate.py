"""Planted cases, from a report directory to a decision."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinybert.errors import DataError
from tinybert.gate import Answered, Decision, Fate, judge
from tinybert.kinds import kind_of
from tinybert.release_config import GateConfig
from tinybert.stages import gate

ROWS = 1000
LABELS = ["bad", "good"]
LATENCY = {"teacher": 20.0, "student": 4.0, "onnx": 3.0, "int8": 2.0, "champion": 2.0}
SIZE = {"teacher": 400.0, "student": 58.0, "onnx": 57.0, "int8": 15.0, "champion": 15.0}


def answered(wrong, rows=ROWS):
    """Answers that are right but on these rows; the label of row n is n % 2."""
    said = np.arange(rows) % 2
    said[list(wrong)] ^= 1
    return said


@pytest.fixture
def decide(tmp_path, nowhere):
    """Run the stage on a report in which models are wrong on these rows; gives the decision and the directory."""
    number = 0

    def decide(rows=ROWS, latency=(), seen=(), answers=(), notes=(), names=LABELS, config=(), **wrong):
        nonlocal number
        number += 1
        report, out = tmp_path / f"report{number}", tmp_path / f"out{number}"
        report.mkdir()
        out.mkdir()
        wrong = {"teacher": range(60), "student": range(100)} | wrong
        wrong = {"onnx": wrong["student"], "int8": wrong["student"]} | wrong
        said = {name: answered(places, rows) for name, places in wrong.items() if places is not None} | dict(answers)
        columns = {"text": ["a film"] * rows, "label": np.arange(rows) % 2}
        columns["seen_by_champion"] = np.isin(np.arange(rows), list(seen))
        columns |= {f"answer_{name}": values for name, values in said.items()}
        pq.write_table(pa.table(columns), report / "predictions.parquet")
        numbers = {name: {"latency_ms": (LATENCY | dict(latency))[name], "megabytes": SIZE[name]} for name in said}
        circumstances = {"kind": "classification", "metric": "accuracy", "labels": names, "test_is_validation": False}
        comparison = numbers | circumstances | dict(notes)
        (report / "comparison.json").write_text(json.dumps(comparison))
        metrics = gate.run(report=report, config=GateConfig(**dict(config)), out=out, on_metrics=nowhere)
        written = (out / "decision.json").read_text()
        decision = Decision.model_validate_json(written)
        assert metrics["promote"] == (decision.verdict == "promote")
        assert metrics["rules_failed"] == len(decision.failed())
        assert json.loads(written)["summary"] in (out / "decision.md").read_text()
        return decision, out

    return decide


def failed(decision):
    return [rule.name for rule in decision.failed()]


def rule(decision, name):
    return next(rule for rule in decision.rules if rule.name == name)


def test_a_better_student_is_promoted(decide):
    decision, out = decide(champion=range(60, 200))  # right on 100 more rows, wrong on 60 more
    assert (decision.verdict, decision.served, failed(decision)) == ("promote", "int8", [])
    assert decision.against_champion
    assert not decision.forced
    assert decision.difference == pytest.approx(0.04)
    # 1.645 standard errors of sqrt(0.16 - 0.04^2) / sqrt(1000), for alpha is 0.05 at either end
    assert decision.difference_low == pytest.approx(0.04 - 0.0207, abs=0.002)
    assert decision.difference_high == pytest.approx(0.04 + 0.0207, abs=0.002)
    assert decision.p_value == pytest.approx(0.001, abs=0.001)
    assert decision.retention == pytest.approx(0.9 / 0.94)
    assert (decision.speedup, decision.megabytes, decision.latency_ms) == (10.0, 15.0, 2.0)
    assert rule(decision, "better").wanted == "shown to be above 0.0 points: p at most 0.05"
    assert decision.summary == (
        "Promote int8: it scores +4.0 points against the champion on 1,000 test rows, "
        "keeps 95.7% of the teacher's accuracy and is 10.0 times as fast."
    )
    assert "| retention | pass | 95.7% | at least 90.0% |" in (out / "decision.md").read_text()
    assert "| latency | - | 2.00 ms | any |" in (out / "decision.md").read_text()


@pytest.mark.parametrize("champion", [range(100), range(50, 150)])
def test_an_equal_student_is_rejected(decide, champion):
    decision, _ = decide(champion=champion)
    assert (decision.verdict, failed(decision)) == ("reject", ["better"])
    assert decision.difference == 0


def test_a_worse_student_is_rejected(decide):
    decision, _ = decide(champion=range(60))  # four points in either class, which is too near to the five allowed
    assert (decision.verdict, failed(decision)) == ("reject", ["better", "classes"])
    assert decision.p_value > 0.99
    assert decision.summary.startswith("Reject int8 (better: -4.0 points (-5.")


def test_not_worse_is_enough_where_the_form_says_so(decide):
    config = {"require": "not_worse"}
    decision, _ = decide(champion=range(10, 110), config=config)  # ten rows each way: sqrt(20) / 1000 is 0.45 points
    assert (decision.verdict, failed(decision)) == ("promote", [])
    assert rule(decision, "not_worse").wanted == "shown to be above -1.0 points: p at most 0.05"
    decision, _ = decide(champion=range(90), config=config)  # lower by the margin
    assert (decision.verdict, failed(decision)) == ("reject", ["not_worse"])
    assert decision.p_value == pytest.approx(0.5)


@pytest.mark.parametrize("class_rows", [100, 501])
def test_a_student_that_gives_up_a_class_is_rejected(decide, class_rows):
    # Better overall by 5 points: 100 points of it in "good", and 10 points lower in "bad".
    student, champion = range(0, 100, 2), range(1, 200, 2)
    decision, _ = decide(student=student, champion=champion, config={"class_rows": class_rows})
    assert (decision.verdict, failed(decision)) == ("reject", ["classes"])
    shown = "not shown to lose less" if class_rows == 100 else "shown to lose more"
    assert rule(decision, "classes").found == f"bad -10.0 points, {shown}"


def test_a_small_class_is_not_asked_for_proof(decide):
    student, champion = range(10), range(1, 200, 2)  # five rows of 500 lost
    for class_rows, passed in ((500, True), (501, True)):
        decision, _ = decide(student=student, champion=champion, config={"class_rows": class_rows})
        assert rule(decision, "classes").passed is passed
    few = {"rows": 80, "teacher": (), "student": (0, 2), "champion": range(1, 80, 2)}  # two of forty
    for class_rows, passed in ((40, False), (41, True)):
        decision, _ = decide(**few, config={"class_rows": class_rows, "min_rows": 80, "variant_margin": 0.2})
        assert rule(decision, "classes").passed is passed


def test_a_class_without_test_rows_is_left_alone(decide):
    champion = answered(range(200))
    champion[:50] = 2  # it names the class that no row has
    decision, _ = decide(answers={"champion": champion}, names=[*LABELS, "absent"], notes={"metric": "f1_macro"})
    assert decision.verdict == "promote"
    assert rule(decision, "classes").found.startswith("worst: ")


def test_a_slower_student_is_rejected(decide):
    decision, _ = decide(champion=range(200), latency={"int8": 3.02})
    assert (decision.verdict, failed(decision)) == ("reject", ["slowdown"])
    assert rule(decision, "slowdown").found == "1.51 times the champion's latency"
    assert decide(champion=range(200), latency={"int8": 3.0})[0].verdict == "promote"
    decision, _ = decide(champion=range(200), latency={"int8": 30.0}, config={"max_slowdown": None})
    assert (decision.verdict, rule(decision, "slowdown").passed) == ("promote", None)


@pytest.mark.parametrize(
    ("name", "field", "broken", "met"),
    [
        ("size", "max_megabytes", 14.9, 15.0),
        ("latency", "max_latency_ms", 1.9, 2.0),
        ("retention", "retention", 0.958, 0.957),
        ("rows", "min_rows", 1001, 1000),
    ],
)
@pytest.mark.parametrize("champion", [None, range(200)])
def test_floors_and_budgets(decide, name, field, broken, met, champion):
    decision, _ = decide(champion=champion, config={field: broken})
    assert (decision.verdict, failed(decision)) == ("reject", [name])
    assert decide(champion=champion, config={field: met})[0].verdict == "promote"


def test_a_student_far_below_its_teacher_is_rejected(decide):
    decision, _ = decide(student=range(160), champion=range(300))  # 84% of 94%
    assert (decision.verdict, failed(decision)) == ("reject", ["retention"])
    assert rule(decision, "retention").found == "89.4%"


def test_a_collapsed_int8_is_not_served(decide):
    decision, out = decide(champion=range(200), int8=range(0, ROWS, 2))
    assert (decision.verdict, decision.served) == ("promote", "onnx")
    assert (decision.latency_ms, decision.megabytes) == (3.0, 57.0)
    assert not decision.variants["int8"].kept
    assert (
        decision.variants["int8"].reason
        == "-40.0 points against torch; not shown to lose less than 2.0 points (p = 1.0000)"
    )
    assert decision.variants["onnx"].kept
    assert "| onnx | yes, answers |" in (out / "decision.md").read_text()
    decision, _ = decide(champion=range(200), int8=range(0, ROWS, 2), onnx=range(0, ROWS, 2), latency={"champion": 4.0})
    assert (decision.verdict, decision.served) == ("promote", "torch")
    assert [fate.kept for fate in decision.variants.values()] == [False, False, True]


def test_a_variant_has_to_show_that_it_loses_less_than_the_margin(decide):
    # By Tango's test on 1,000 rows, 12 lost rows of 20 allowed are p 0.034, 13 are p 0.057.
    assert decide(int8=range(112))[0].variants["int8"].kept
    assert not decide(int8=range(113))[0].variants["int8"].kept


def test_a_variant_that_could_not_be_measured_is_not_served(decide):
    why = "int8: the logits of 2 of 1,000 rows are not finite"
    decision, out = decide(champion=range(200), int8=None, notes={"variants_left_out": {"int8": why}})
    assert decision.served == "onnx"
    assert decision.variants["int8"] == Fate(kept=False, reason=why)
    assert f"| int8 | no | {why} |" in (out / "decision.md").read_text()


def test_variants_that_were_not_exported_are_not_missed(decide):
    decision, _ = decide(champion=range(200), int8=None, onnx=None, latency={"champion": 4.0})
    assert (decision.verdict, decision.served, list(decision.variants)) == ("promote", "torch", ["torch"])


def test_the_first_model_meets_floors_and_budgets_only(decide):
    decision, _ = decide()
    assert (decision.verdict, decision.against_champion) == ("promote", False)
    assert {rule.name for rule in decision.rules if rule.passed is None} == {
        "better",
        "classes",
        "slowdown",
        "latency",
        "size",
    }
    contested = (decision.difference, decision.difference_low, decision.difference_high, decision.p_value)
    assert contested == (None,) * 4
    assert decision.notes == []


def test_a_champion_with_other_labels_is_no_rival(decide):
    decision, out = decide(notes={"champion_left_out": "the champion knows neutral, the data does not."})
    assert (decision.verdict, decision.against_champion) == ("promote", False)
    said = "Judged as a first model is, by floors and budgets: the champion knows neutral, the data does not."
    assert decision.notes == [said]
    assert f"- {said}\n" in (out / "decision.md").read_text()


def test_rows_the_champion_was_trained_on_do_not_count(decide):
    # On all rows the student is better; on those the champion did not know they are equal.
    decision, _ = decide(student=(), champion=range(100), seen=range(100))
    assert (decision.verdict, failed(decision)) == ("reject", ["better"])
    assert decision.difference == 0
    assert rule(decision, "rows").found == "900 rows, without 100 that the champion was trained on"
    assert decision.notes == ["100 test rows that the champion was trained on are left out of the comparison with it."]
    decision, _ = decide(student=(), champion=range(ROWS), seen=range(801))
    assert failed(decision) == ["rows"]
    assert decide(student=(), champion=range(ROWS), seen=range(800))[0].verdict == "promote"


def test_without_a_row_to_compare_on_nothing_is_promoted(decide):
    decision, _ = decide(champion=range(200), seen=range(ROWS))
    assert (decision.verdict, failed(decision)) == ("reject", ["rows", "better", "classes"])
    assert decision.difference is None


def test_a_person_can_promote_whatever_the_rules_say(decide):
    reason = "the champion leaks personal data"
    decision, out = decide(champion=range(60), config={"force": reason, "min_rows": 2000})
    assert (decision.verdict, decision.forced, decision.force) == ("promote", True, reason)
    assert failed(decision) == ["rows", "better", "classes"]
    assert decision.summary.startswith(
        f"Promote int8 by force ({reason}), against these rules: rows: 1,000 rows; better: -4.0 points"
    )
    assert "| better | FAIL |" in (out / "decision.md").read_text()
    assert "which no rule speaks against" in decide(config={"force": reason})[0].summary


def test_scores_on_validation_rows_are_marked(decide):
    decision, _ = decide(notes={"test_is_validation": True})
    assert decision.verdict == "promote"
    assert decision.notes[0].startswith("The test rows are the validation rows")


def test_macro_f1_can_decide(decide):
    decision, _ = decide(champion=range(200), notes={"metric": "f1_macro"})
    assert (decision.verdict, decision.metric) == ("promote", "f1_macro")
    assert decision.difference == pytest.approx(0.1)
    assert "the teacher's macro F1" in decision.summary


def test_a_correlation_is_compared_with_that_of_a_teacher_that_has_one(decide):
    """A teacher whose answers have nothing to do with the labels is nothing to keep a share of."""
    decision, _ = decide(teacher=range(0, ROWS, 3), notes={"metric": "mcc"})
    assert decision.retention == pytest.approx(0.8 / (1 - 2 * 334 / ROWS))  # of two even classes: 1 - 2 * wrong
    decision, _ = decide(teacher=range(600), notes={"metric": "mcc"})
    assert (decision.retention, failed(decision)) == (0.0, ["retention"])


def test_reports_that_do_not_fit_are_refused(decide, tmp_path, nowhere):
    with pytest.raises(DataError, match=r"no comparison\.json; name the directory that the stage evaluate wrote"):
        gate.run(report=tmp_path, config=GateConfig(), out=tmp_path, on_metrics=nowhere)
    with pytest.raises(DataError, match="no answers of teacher; evaluate the student again"):
        decide(teacher=None)
    (tmp_path / "comparison.json").write_text('{"labels": []}')
    (tmp_path / "predictions.parquet").touch()
    with pytest.raises(DataError, match="no kind and no metric; evaluate the student again"):
        gate.run(report=tmp_path, config=GateConfig(), out=tmp_path, on_metrics=nowhere)


def judged(kind, labels, names, metric, **answers):
    """The decision about models that gave these answers; teacher and variants answer as the student does."""
    said = dict.fromkeys(("teacher", "student", "onnx", "int8"), answers["student"]) | answers
    numbers = {name: {"latency_ms": LATENCY[name], "megabytes": SIZE[name]} for name in said}
    rows = Answered(kind_of(kind), labels, np.zeros(len(labels), bool), said, names)
    return judge(rows, numbers | {"kind": kind, "metric": metric}, GateConfig())


def noisy(labels, noise):
    """Numbers whose correlation with the labels is 1 / sqrt(1 + noise^2)."""
    return (np.array(labels) + noise * np.std(labels) * np.random.default_rng(1).normal(size=len(labels))).tolist()


def test_of_numbers_the_correlation_decides_and_there_are_no_classes():
    labels = np.random.default_rng(0).uniform(0, 5, size=ROWS).tolist()
    decision = judged("regression", labels, ["stars"], "pearson", student=noisy(labels, 0.5), champion=noisy(labels, 1))
    assert (decision.verdict, failed(decision)) == ("promote", [])
    assert decision.difference == pytest.approx(1.25**-0.5 - 2**-0.5, abs=0.03)
    assert rule(decision, "classes").passed is None
    assert rule(decision, "classes").found == "no classes"
    assert "the teacher's Pearson correlation" in decision.summary
    same = judged("regression", labels, ["stars"], "pearson", student=noisy(labels, 1), champion=noisy(labels, 1))
    assert failed(same) == ["better"]


def test_of_words_a_type_that_loses_entities_speaks_against_the_student():
    """Two persons and a place in each of 1,000 rows: one person missed in 200 rows is a tenth of the recall."""
    names, right = ["O", "B-LOC", "B-PER"], [2, 0, 2, 1]
    labels, missed, lost = [right] * ROWS, [2, 0, 0, 1], [0, 0, 0, 0]
    student, champion = [missed] * 200 + [right] * 800, [right] * 600 + [lost] * 400
    worse = [right] * 600 + [[2, 0, 2, 0]] * 400
    decision = judged("token_classification", labels, names, "entity_f1", student=student, champion=champion)
    assert (decision.verdict, failed(decision)) == ("promote", [])
    assert rule(decision, "classes").found == "worst: PER +30.0 points"  # 90% of persons against 60%
    decision = judged("token_classification", labels, names, "entity_f1", student=student, champion=worse)
    assert failed(decision) == ["classes"]
    assert rule(decision, "classes").found == "PER -10.0 points, not shown to lose less"


def test_of_several_labels_a_row_counts_in_each_of_its_classes():
    labels, names = [[0, 1]] * 500 + [[1]] * 500, ["sport", "money"]
    student, champion = [[0, 1]] * 450 + [[1]] * 550, [[0]] * 500 + [[1]] * 500
    decision = judged("multi_label", labels, names, "f1_micro", student=student, champion=champion)
    # true positives 1450 of 1500, and 1000 of 1500
    assert decision.difference == pytest.approx(2900 / 2950 - 2000 / 2500)
    assert rule(decision, "classes").found == "sport -10.0 points, not shown to lose less"


def test_of_answers_to_questions_an_empty_one_is_wrong_where_there_is_one():
    labels = [[{"text": "London", "start": 12}]] * 500
    said = ["London"] * 450 + [""] * 50, ["London"] * 400 + [""] * 100
    decision = judged("question_answering", labels, ["start", "end"], "answer_f1", student=said[0], champion=said[1])
    assert (decision.verdict, failed(decision)) == ("promote", [])
    assert decision.difference == pytest.approx(0.1)
    assert rule(decision, "classes").passed is None
