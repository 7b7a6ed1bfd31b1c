"""Signals that come in pairs, in nested contexts, and after an interruption was swallowed."""

import os
import signal

import pytest

from gradcore._base.interrupts import Interrupts

PAIRS = [(a, b) for a in (signal.SIGINT, signal.SIGTERM) for b in (signal.SIGINT, signal.SIGTERM)]


def send(number):
    os.kill(os.getpid(), number)


def send_held(interrupts, *numbers):
    with interrupts.held():
        for number in numbers:
            send(number)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_signal_after_a_signal_disturbs_nothing(first, second):
    saved = []
    with Interrupts() as interrupts:
        try:
            send(first)
        except KeyboardInterrupt:
            send(second)
            saved.append(True)
            send(second)
    assert saved == [True]
    assert interrupts.number == first
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_held_signal_and_one_after_it(first, second):
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            send_held(interrupts, first, second)
        send(second)
    assert interrupts.number == first


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_outer_context_ignores_what_follows_a_signal_of_the_inner_one(first, second):
    with Interrupts() as outer:
        with Interrupts() as inner:
            with pytest.raises(KeyboardInterrupt):
                send(first)
            send(second)
        send(second)
        assert outer.number == inner.number == first
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_what_is_saved_in_held_while_signals_are_ignored_keeps_them_ignored(first, second):
    with Interrupts() as outer:
        with Interrupts() as inner:
            with pytest.raises(KeyboardInterrupt):
                send(first)
            inner.ignore()
            send_held(inner, second)
        send(second)
        assert outer.number == inner.number == first


def test_the_outer_context_has_the_signals_after_a_quiet_inner_one():
    with Interrupts() as outer:
        with Interrupts():
            pass
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
    assert outer.number == signal.SIGTERM


def test_work_that_goes_on_after_a_swallowed_interruption_can_be_interrupted_again():
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        with interrupts.held():
            pass
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
