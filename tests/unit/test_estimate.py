"""Costs worked out by hand, and held against torch's own counter, the real plan of a stage, and real parameters."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, BertModel

from tinybert import cost
from tinybert.batches import GroupedPlan
from tinybert.cli import validated
from tinybert.config import DistillConfig
from tinybert.estimate import Amounts, StageCost, estimate, steps_of
from tinybert.estimate_encoder import Encoder
from tinybert.form import merge
from tinybert.last_layer import finish_first_token_only
from tinybert.preflight_report import DoctorReport, Finding, Speed, duration
from tinybert.training_config import OptimConfig

TINY = {
    **{"num_hidden_layers": 3, "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4},
    **{"vocab_size": 200, "max_position_embeddings": 64},
}
BASE = Encoder(layers=12, hidden=768, ffn=3072, heads=12, vocabulary=30522, positions=512)
ONE = Encoder(layers=1, hidden=2, ffn=4, heads=1, vocabulary=10, positions=3)
"""Over rows of 3 tokens: 3 * (6*4 + 4*3*2) up to the attention, 3 * (2*4 + 4*2*4) after it, 264 in all."""
FORM = {
    "name": "t",
    "data": {"source": "file:/rows.csv", "max_length": 8},
    "teacher": {"source": "file:/teacher"},
    "student": {"layers": 1, "hidden": 2, "ffn": 4, "heads": 1},
    "general": {"enabled": False},
    "augment": {"enabled": False},
    "baseline": {"enabled": False},
    "fine_tune": {"optim": {"epochs": 2, "batch_size": 10}},
    "layers": {"optim": {"epochs": 4, "batch_size": 20}},
    "logits": {"optim": {"epochs": 1, "batch_size": 30}},
}
AMOUNTS = Amounts(train=100, validation=10, test=5, tokens=3)


def costs(amounts=AMOUNTS, teacher=ONE, student=ONE, width=4, most=sys.maxsize, **change) -> dict[str, StageCost]:
    config = validated(DistillConfig, merge(FORM, change))
    return {cost.name: cost for cost in estimate(config, teacher, student, amounts, width, most)}


# Encoder --------------------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_a_real_bert():
    assert Encoder.of(TINY).parameters == BertModel(BertConfig(**TINY)).num_parameters()
    assert BASE.parameters == 109_482_240  # bert-base-uncased


@pytest.mark.parametrize("length", [8, 64])
def test_operations_are_those_torch_counts(length):
    model = BertForSequenceClassification(BertConfig(**TINY)).eval()
    head = 2 * 48 * 48 + 2 * 48 * 2  # pooler and classifier, of one token
    assert Encoder.of(TINY).forward(length) + head == pytest.approx(1e9 * cost.gigaflops(model, length))


def test_operations_of_a_last_layer_that_finishes_one_token_are_those_torch_counts():
    model = BertModel(BertConfig(**TINY), add_pooling_layer=False).eval()
    finish_first_token_only(model)
    ids_BL = torch.zeros((1, 32), dtype=torch.long)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(input_ids=ids_BL)
    assert Encoder.of(TINY).forward(32, 1) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_operations_by_hand():
    assert ONE.forward(3) == 264
    assert ONE.forward(3, asked=1) == 144 + 40
    assert ONE.model_copy(update={"layers": 2}).forward(3, asked=1) == 264 + 144 + 40


def test_activations_are_the_published_formulas():
    by_paper = 128 * 768 * (34 + 5 * 12 * 128 / 768)  # bytes of a layer, arXiv:2205.05198, equation 1
    assert BASE.activations(128, 2) == pytest.approx(12 * by_paper)
    assert BASE.activations(128, 4) > 1.9 * BASE.activations(128, 2)  # all but the masks are twice as wide


def test_distilberts_fields_are_read():
    names = {"n_layers": 3, "dim": 48, "hidden_dim": 96, "n_heads": 4}
    model = {"model_type": "distilbert", **names, "vocab_size": 200, "max_position_embeddings": 64}
    assert Encoder.of(model) == Encoder.of(TINY)


# Steps ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 300),
    batch=st.integers(1, 64),
    epochs=st.integers(1, 4),
    limit=st.none() | st.integers(1, 60),
)
@example(rows=202, batch=22, epochs=2, limit=11)
def test_steps_and_rows_are_those_of_the_real_plan(rows, batch, epochs, limit):
    optim = OptimConfig(epochs=epochs, batch_size=batch, steps=limit)
    plan = GroupedPlan(np.full(rows, 7, np.int32), optim)
    steps, examples = steps_of(rows, 7, optim)
    assert steps == plan.steps
    seen = sum(len(plan.rows(step)) for step in range(steps))
    assert seen <= examples <= seen + (batch - 1) * epochs  # the short batch of an epoch may lie behind the limit


def test_steps_under_a_token_budget():
    assert steps_of(100, 5.0, OptimConfig(epochs=2, batch_tokens=50)) == (20, 200)


# Stages ---------------------------------------------------------------------------------------------------------------


def test_fine_tuning_by_hand():
    found = costs()["fine_tune"]
    scored = 2 * 10 * 264  # two epochs, ten validation rows
    assert (found.steps, found.examples, found.tokens) == (20, 200, 600)
    assert found.flops == 200 * 3 * (144 + 40) + scored
    assert found.gigabytes == 4 * ONE.parameters / 1e9
    assert found.scratch_gigabytes == 2 * 12 * ONE.parameters / 1e9
    rows = 10 * ONE.activations(8, 4)
    assert found.memory_gigabytes == pytest.approx((16 * ONE.parameters + 0.6e9 + rows) / 1e9)


def test_layers_pay_for_the_teacher_up_to_the_last_mapped_layer():
    deep = ONE.model_copy(update={"layers": 2})
    found = costs(teacher=deep)["layers"]
    assert (found.steps, found.examples) == (20, 400)
    assert found.flops == 400 * (3 * 264 + 2 * 264)
    shallow = costs(teacher=deep, layer_map={"strategy": "bottom"})["layers"]
    assert shallow.flops == 400 * (3 * 264 + 264)


def test_layers_pay_for_projections_where_widths_differ():
    wide = ONE.model_copy(update={"hidden": 4})
    more = costs(teacher=wide)["layers"].flops - 400 * wide.forward(3) - 400 * 3 * 264
    assert more == 400 * 3 * (2 * 3 * 2 * 4 * 2)  # two states of 3 tokens, 2 wide to 4 wide


def test_states_that_are_kept_take_disk_and_spare_the_teacher():
    given = AMOUNTS.model_copy(update={"state_bytes": 1e6})
    kept, not_kept = (costs(given, targets={"states_gb": limit}) for limit in (0.2, 0.05))
    assert kept["layers"].flops == not_kept["layers"].flops - 400 * 264
    assert kept["targets"].gigabytes == pytest.approx(0.1, rel=1e-3)
    assert not_kept["targets"].gigabytes < 1e-4
    assert kept["targets"].flops == not_kept["targets"].flops + 100 * 264


def test_copies_are_asked_about_and_learnt_from():
    given = AMOUNTS.model_copy(update={"copies": 3})
    found = costs(given, augment={"enabled": True})
    assert found["targets"].examples == 400
    assert found["layers"].examples == 4 * 400
    assert found["logits"].examples == 400
    regression = costs(given, augment={"enabled": True}, data={"kind": "regression"})
    assert regression["targets"].examples == regression["logits"].examples == 100
    assert regression["layers"].examples == 4 * 400


def test_augmentation_asks_once_for_each_word_or_group_of_words():
    given = AMOUNTS.model_copy(update={"copies": 3, "tokens": 40.0})  # of which 20 are replaced, 6 at once
    asked = {
        masking: costs(given, augment={"enabled": True, "masking": masking})["augment"].examples
        for masking in ("each", "grouped", "none")
    }
    assert asked == {"each": 2000, "grouped": 400, "none": 100}


def test_the_baseline_takes_as_many_steps_as_task_distillation():
    found = costs(baseline={"enabled": True})
    assert found["baseline"].steps == found["layers"].steps + found["logits"].steps == 24


def test_masked_language_modelling_pays_for_the_vocabulary():
    boxes = {"corpus": {"source": "file:/c.txt", "length": 8}, "mlm": {"enabled": True, "optim": {"batch_size": 10}}}
    given = AMOUNTS.model_copy(update={"sequences": 50})
    found = costs(given, **boxes)
    assert found["corpus"].gigabytes == 4 * 50 * 8 / 1e9
    head = 2 * 0.15 * 8 * (2 * 2 + 2 * 10)
    assert found["mlm"].flops == pytest.approx(50 * 3 * (ONE.forward(8) + head))
    assert found["mlm"].steps == 5


def test_more_slices_take_less_memory():
    whole, cut = (costs(layers={"optim": {"accumulation": parts}})["layers"] for parts in (1, 4))
    assert whole.memory_gigabytes - cut.memory_gigabytes == pytest.approx(15 * ONE.activations(8, 4) / 1e9)
    assert whole.least_gigabytes == cut.least_gigabytes


@pytest.mark.parametrize(("tokens", "rows"), [(1024, 20), (160, 20), (159, 19), (17, 2), (5, 1)])
def test_no_more_tokens_are_held_than_a_slice_has(tokens, rows):
    """Batches of 20 rows of up to 8 tokens."""
    found = costs(most=tokens)["layers"]
    assert found.memory_gigabytes - found.least_gigabytes == pytest.approx((rows - 1) * ONE.activations(8, 4) / 1e9)


# Report ---------------------------------------------------------------------------------------------------------------

SPEED = Speed(flops=1e9, steps=10, rows=8, length=16, bf16=False, cuda=False)
WRONG = [Finding(what=what, status="wrong", found=f"no {what}", mend=f"make {what}") for what in ("store", "limit")]
FINE = Finding(what="rows", status="ok", found="100 | rows")


def test_hours_and_gigabytes_are_sums():
    stages = [
        StageCost(name="a", flops=3.6e12, gigabytes=1.0, scratch_gigabytes=0.5),
        StageCost(name="b", flops=7.2e12, gigabytes=2.0, scratch_gigabytes=4.0),
    ]
    report = DoctorReport.of("t", [FINE], stages, speed=SPEED)
    assert report.totals == {"estimated_hours": pytest.approx(3.0), "estimated_gigabytes": 7.0}
    assert DoctorReport.of("t", [FINE], stages, speed=SPEED, processes=2).hours == pytest.approx(1.5)
    assert "about 3.0 hours, 67% of it b, 7 GB written" in report.estimated
    unknown = DoctorReport.of("t", [FINE], stages)
    assert unknown.totals == {"estimated_gigabytes": 7.0}
    assert "time unknown" in unknown.estimated


def test_an_error_counts_what_is_wrong_and_names_all_of_it():
    report = DoctorReport.of("t", [FINE, *WRONG], [])
    lines = str(report.error()).splitlines()
    assert lines[0] == "2 things are wrong, first: store: no store"
    assert [line.strip() for line in lines[1:]] == ["store: no store -> make store", "limit: no limit -> make limit"]
    assert str(DoctorReport.of("t", WRONG[:1], []).error()).startswith("1 thing is wrong: store: no store")
    assert report.summary == "1 ok, 2 wrong"


def test_markdown_shows_what_is_wrong_first_and_keeps_its_columns():
    rows = [line for line in DoctorReport.of("t", [FINE, *WRONG], []).markdown().splitlines() if line.startswith("| ")]
    assert rows[2].startswith("| store | **wrong** |")
    assert rows[-1] == "| rows | ok | 100 \\| rows |  |"


@pytest.mark.parametrize(("hours", "told"), [(0.01, "36 s"), (0.5, "30 minutes"), (3, "3.0 hours"), (0, "0 s")])
def test_durations(hours, told):
    assert duration(hours) == told


def test_a_run_without_any_work_has_an_estimate_too():
    report = DoctorReport.of("t", [FINE], [StageCost(name="gate")], speed=SPEED)
    assert not math.isnan(report.hours)
    assert list(report.table()) == []
    assert "0 TFLOP" in report.estimated
