"""SIGTERM inside the block is a wish; behind it, it does what it would have done."""

import signal
import threading

import pytest

from tinybert.interruption import Interruption


@pytest.fixture
def handler():
    """What was there before: it notes the signal and lets the process live."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, before)


def test_it_waits_for_the_end_of_the_block(handler):
    interruption, seen = Interruption(), []

    def work():
        with interruption:
            seen.append(interruption.asked)
            signal.raise_signal(signal.SIGTERM)
            seen.extend([interruption.asked, *handler])

    with pytest.raises(SystemExit) as ended:
        work()
    assert seen == [False, True]
    assert handler == [signal.SIGTERM]
    assert ended.value.code == 128 + 15  # as a shell names a death by SIGTERM


def test_it_ends_as_the_handler_before_says():
    class Terminated(BaseException):
        """What Prefect raises."""

    def raising(number, frame):
        raise Terminated

    before = signal.signal(signal.SIGTERM, raising)
    try:
        with pytest.raises(Terminated), Interruption():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is raising
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_a_signal_nothing_happens_and_the_handler_is_back(handler):
    before = signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    signal.raise_signal(signal.SIGTERM)
    assert handler == [signal.SIGTERM]


def test_an_error_is_not_hidden_by_the_signal(handler):
    def work():
        with Interruption():
            signal.raise_signal(signal.SIGTERM)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert handler == []


def test_outside_of_the_main_thread_it_does_nothing(handler):
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with Interruption() as interruption:
            seen.append(signal.getsignal(signal.SIGTERM))
            interruption.asked = True
        seen.append("went on")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, "went on"]
