"""The form of retraining: the presets are valid, and a model that is not registered is refused."""

import pytest

from flows.command import preset, presets
from tinybert.cli import validated
from tinybert.errors import ConfigError
from tinybert.retrain_config import RetrainConfig

RUN = {
    "name": "reviews",
    "data": {"source": "file:/rows"},
    "teacher": {"source": "file:/teacher"},
    "general": {"enabled": False},
}


@pytest.mark.parametrize(("name", "of"), [("retrain", "quickstart"), ("retrain-smoke", "smoke")])
def test_presets_repeat_a_run(name, of):
    assert presets("retrain")[name]["distill"] == preset(of)
    assert validated(RetrainConfig, presets("retrain")[name]).model == of


def test_the_model_has_the_name_under_which_it_is_published():
    assert RetrainConfig(distill=RUN).model == "reviews"
    assert RetrainConfig(distill=RUN | {"publish": {"name": "film reviews"}}).model == "film reviews"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"distill": RUN | {"publish": {"enabled": False}}}, "publish.enabled is false"),
        ({"distill": RUN | {"reason": "r" * 201}}, "distill.reason"),
        ({"distill": RUN, "max_age_days": 0}, "max_age_days"),
        ({"distill": RUN, "if_running": "hurry"}, "if_running"),
    ],
)
def test_what_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        validated(RetrainConfig, fields)
