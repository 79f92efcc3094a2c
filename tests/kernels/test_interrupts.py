"""Signals wait for the end of a block, and are not lost."""

import signal
import threading

import pytest

from kanlib.kernels.interrupts import SIGNALS, deferred


class TimeOut(Exception):
    """What a handler of another signal than Ctrl-C raises."""


@pytest.fixture
def handler():
    """Handle all signals by an exception of their own, and see that the handlers are put back."""

    def raises(number, frame):
        raise TimeOut(number)

    before = {number: signal.signal(number, raises) for number in SIGNALS}
    yield raises
    assert {signal.getsignal(number) for number in SIGNALS} == {raises}
    for number, old in before.items():
        signal.signal(number, old)


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_waits_for_the_end_and_is_raised(handler, number):
    steps = []
    with pytest.raises(TimeOut, match=str(int(number))):  # noqa: PT012
        with deferred():
            signal.raise_signal(number)
            steps.append("end")
        steps.append("behind")
    assert steps == ["end"]


def test_all_signals_that_came_are_delivered(handler):
    seen = []

    def notes(number, frame):
        seen.append(number)
        raise TimeOut(number)

    chosen = SIGNALS[:3]
    for number in chosen:
        signal.signal(number, notes)
    with pytest.raises(TimeOut), deferred():  # noqa: PT012
        for number in chosen:
            signal.raise_signal(number)
    for number in chosen:
        signal.signal(number, handler)
    assert seen == chosen


def test_error_of_the_block_is_raised_without_a_signal(handler):
    with pytest.raises(ZeroDivisionError), deferred():
        1 / 0  # noqa: B018


def test_signals_that_python_does_not_handle_stay_with_the_system(handler):
    number = SIGNALS[0]
    signal.signal(number, signal.SIG_IGN)
    with deferred():
        assert signal.getsignal(number) == signal.SIG_IGN
    signal.signal(number, handler)


def test_other_threads_change_no_handler(handler):
    seen = []

    def work():
        with deferred():
            seen.append(signal.getsignal(SIGNALS[0]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handler]
