"""The table of known benchmarks, and how it fills in a form."""

from typing import get_args

import pytest

from flows.command import presets
from tinybert.benchmark_table import BENCHMARKS, BenchmarkName
from tinybert.config import DistillConfig
from tinybert.data_config import DEFAULTS
from tinybert.form import merge
from tinybert.sources import parse


def form(benchmark: str, **more) -> DistillConfig:
    teacher = {"source": "file:/teacher"}
    given = {"name": "run", "benchmark": benchmark, "teacher": teacher, "general": {"enabled": False}}
    return DistillConfig.model_validate(given | more)


def test_every_name_of_the_form_has_a_line_and_every_line_a_name():
    assert set(get_args(BenchmarkName)) == set(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_fills_a_valid_form_that_survives_being_written_and_read(name):
    config = form(name)
    assert parse(config.data.source).scheme == "hub"
    assert set(BENCHMARKS[name].averaged) <= set(DEFAULTS[config.data.kind].metrics)
    assert DistillConfig.model_validate(config.model_dump()) == config


def test_glue_has_the_numbers_of_the_paper_and_its_code():
    """N, lengths and epochs of arXiv:1909.10351, section 4.2, and of the code's table of defaults."""
    found = {name: form(f"glue/{name}") for name in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")}
    copies = {name: config.augment.copies for name, config in found.items()}
    assert copies == {"cola": 30, "mrpc": 30, "stsb": 30, "rte": 30, "sst2": 20, "qnli": 20, "mnli": 10, "qqp": 10}
    epochs = {name: config.layers.optim.epochs for name, config in found.items()}
    assert epochs == {"cola": 50, "mrpc": 20, "stsb": 20, "rte": 20, "sst2": 20, "qnli": 10, "mnli": 10, "qqp": 10}
    assert {name for name, config in found.items() if config.data.max_length == 64} == {"cola", "sst2"}
    assert {name: config.data.score for name, config in found.items()} == {
        "cola": "mcc",
        "sst2": "accuracy",
        "mrpc": "f1",
        "stsb": "pearson",
        "qqp": "f1",
        "mnli": "accuracy",
        "qnli": "accuracy",
        "rte": "accuracy",
    }


@pytest.mark.parametrize("name", ["sst2-tinybert4", "sst2-tinybert6"])
def test_another_benchmark_may_take_the_place_of_a_preset_s(name):
    config = DistillConfig.model_validate(merge(presets()[name], {"benchmark": "glue/mrpc"}))
    assert (config.data, config.augment.copies) == (form("glue/mrpc").data, 30)
    own = DistillConfig.model_validate(presets()[name])
    assert (own.data.text_column, own.data.max_length, own.augment.copies, own.layers.optim.epochs) == (
        "sentence",
        64,
        20,
        20,
    )


def test_what_the_form_gives_comes_before_what_the_table_knows():
    own = {"data": {"source": "file:/mine", "max_length": 32}, "layers": {"optim": {"epochs": 1}}}
    config = form("glue/cola", **own)
    assert (config.data.source, config.data.max_length, config.layers.optim.epochs) == ("file:/mine", 32, 1)
    assert (config.data.score, config.data.text_column, config.augment.copies) == ("mcc", "sentence", 30)


def test_matched_and_mismatched_are_two_tests():
    config = form("glue/mnli")
    assert config.data.other_tests == ["mismatched"]
    assert config.data.test_share == 0


def test_an_unknown_benchmark_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="glue/cola"):
        form("glue/diagnostics", data={"source": "file:/mine"})
