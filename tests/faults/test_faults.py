"""The real stack and real runs under fault: nothing is lost, no slot stays taken, and the model is the same."""

import pytest

from tests.faults.catalogue import QUICK
from tests.faults.harness import Harness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def harness():
    with Harness(print) as harness:
        yield harness


@pytest.mark.parametrize("scenario", QUICK, ids=lambda scenario: scenario.name)
def test_a_run_comes_to_what_an_undisturbed_one_comes_to(harness, scenario):
    [outcome] = harness.play(scenario)
    assert outcome.problems == []
    assert outcome.missed == {}
    assert len(outcome.done) == len(scenario.plan)


def test_nothing_is_left_behind(harness):
    """The last test of this file: it takes the stack down."""
    assert harness.lost() == []
    assert harness.slots_held(seconds=0) == 0
    assert harness.take_down() == 0
