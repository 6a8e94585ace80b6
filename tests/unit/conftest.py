"""What several tests of training need."""

import signal

import pytest


@pytest.fixture
def terminated():
    """SIGTERM's own handler, for the time of a test: it lets the process live, so that the loop itself ends it."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    yield
    signal.signal(signal.SIGTERM, before)
