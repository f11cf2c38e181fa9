import itertools
import os
import signal
import threading

import pytest

from tb_firstloss.capture.signals import deferred, let_through

CAUGHT = (signal.SIGUSR1, signal.SIGUSR2)


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def caught_signals():
    return {n: h for n in signal.valid_signals() if callable(h := signal.getsignal(n))}


@pytest.fixture
def calls():
    """The numbers that two handlers were called with."""
    found, before = [], {number: signal.getsignal(number) for number in CAUGHT}
    for number in CAUGHT:
        signal.signal(number, lambda number, frame: found.append(number))
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def handlers_stay():
    before = caught_signals()
    yield
    assert caught_signals() == before


def test_ctrl_c_comes_when_the_block_is_done():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with deferred():
            send()
            done.append("block")
        done.append("never")
    assert done == ["block"]


def test_each_signal_reaches_its_handler_once_the_block_is_done(calls):
    with deferred():
        for number in CAUGHT:
            send(number)
        assert calls == []
    assert sorted(calls) == sorted(CAUGHT)


def test_every_handler_is_called_even_if_one_raises(calls):
    with pytest.raises(KeyboardInterrupt), deferred():
        for number in (*CAUGHT, signal.SIGINT):
            send(number)
    assert sorted(calls) == sorted(CAUGHT)


def test_a_signal_that_insists_goes_through_and_comes_no_second_time():
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        send()
        with pytest.raises(KeyboardInterrupt):
            send()
        done.append("caught")
        send()
        done.append("deferred again")
    assert done == ["caught", "deferred again"]


def test_a_handler_that_is_replaced_when_a_signal_insists_stays_replaced(calls):
    def last(number, frame):
        signal.signal(number, signal.SIG_IGN)

    signal.signal(signal.SIGUSR1, last)
    with deferred():
        send(signal.SIGUSR1)
        send(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN


def test_the_step_inside_can_be_interrupted_and_what_follows_it_cannot(calls):
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        try:
            with let_through():
                before = caught_signals()
                send()
                done.append("never")
        finally:
            send(signal.SIGUSR1)
            done.append(list(calls))
    assert done == [[]]
    assert calls == [signal.SIGUSR1]
    assert signal.default_int_handler in before.values()


def test_what_came_before_the_step_keeps_it_from_running():
    with pytest.raises(KeyboardInterrupt), deferred():
        send()
        with let_through():
            pytest.fail("the step ran")


def test_a_handler_that_the_step_installs_or_removes_is_respected(calls):
    with deferred():
        with let_through():
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGUSR2, lambda number, frame: calls.append("new"))
        send(signal.SIGUSR1)
        send(signal.SIGUSR2)
        assert calls == []
    assert calls == ["new"]
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    signal.signal(signal.SIGUSR1, signal.default_int_handler)


def test_a_block_in_a_block_ends_with_the_outer_one():
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        with deferred():
            send()
        done.append("outer")
    assert done == ["outer"]


def test_other_threads_change_no_handler():
    seen = []

    def run():
        with deferred(), let_through():
            seen.append(caught_signals())

    with deferred():
        held = caught_signals()
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert seen == [held]


def test_a_signal_while_handlers_are_exchanged_leaves_none_behind(calls, monkeypatch):
    """At every moment of the exchange, one after the other."""
    before, came = caught_signals(), True
    for moment in itertools.count(1):
        left = itertools.count(moment, -1)

        def interrupted(function, left=left):
            def call(*args):
                if next(left) == 1:
                    send()
                return function(*args)

            return call

        with monkeypatch.context() as patch:
            for name in ("signal", "getsignal"):
                patch.setattr(signal, name, interrupted(getattr(signal, name)))
            try:
                with deferred():
                    pass
                came = False
            except KeyboardInterrupt:
                pass
        assert caught_signals() == before, moment
        with deferred() as is_outermost:
            assert is_outermost
            assert set(caught_signals().values()).isdisjoint(before.values())
        if not came:
            break
    assert moment > len(signal.valid_signals()) + 4 * len(before)
