from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from adam_mp.process import interruption as signals
from adam_mp.process.interruption import (
    CHECKPOINT,
    ENDING,
    EXIT_CODES,
    PASSED_OVER,
    Interruption,
    Stopped,
    endings_as_interrupts,
    stacks_when_asked,
)  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_is_obeyed(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert interruption.requested is None
        os.kill(os.getpid(), number)
        assert interruption.requested == number.name
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_sigterm_raises_where_nobody_notes_it_and_an_interruption_takes_it_over():
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with endings_as_interrupts():
            with Interruption() as interruption:
                os.kill(os.getpid(), signal.SIGTERM)
                assert interruption.requested == "SIGTERM"
            with pytest.raises(Stopped):
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


ASKED = {
    "a run that is entered and left": """
with stacks_when_asked():
    ask()
    with Interruption() as interruption, interruption.note_asking():
        ask()
        assert interruption.asked
    ask()
""",
    "a run that waits for others": """
with stacks_when_asked(), Interruption():
    ask()
    ask()
""",
    "a command": """
from adam_mp.cli import main
main._run = lambda arguments: ask() or ask() or 0
assert main.main(["train"]) == 0
""",
    "the library while it plans": """
from adam_mp.training import trainer
def make_plan(*_):
    ask()
    ask()
    raise SettingsError("none")
trainer.make_plan = make_plan
with contextlib.suppress(SettingsError):
    trainer.run_training({}, [])
""",
    "the caller's own use of the signal": """
def own(number, frame):
    print("most recent call first: not of adam_mp", file=sys.stderr)
signal.signal(signal.SIGUSR1, own)
with stacks_when_asked():
    ask()
    with Interruption() as interruption, interruption.note_asking():
        ask()
ask()
""",
}


@pytest.mark.parametrize("what", ASKED)
def test_who_is_asked_what_it_does_answers_and_lives(what):
    script = """
import contextlib, os, signal, sys
from adam_mp.errors import SettingsError
from adam_mp.process.interruption import Interruption, stacks_when_asked
def ask():
    os.kill(os.getpid(), signal.SIGUSR1)
"""
    command = [sys.executable, "-c", script + ASKED[what]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done
    assert done.stderr.count("most recent call first") == 2


def test_in_a_thread_nothing_is_changed():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def task():
        with Interruption() as interruption:
            seen.append((interruption.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=task)
    thread.start()
    thread.join(10)
    assert seen == [(None, before)]


REPEATED = [signal.SIGHUP, signal.SIGXCPU, signal.SIGPWR]


@pytest.fixture
def defaults():
    """The system's default for all signals that a run looks after."""
    before = {number: signal.getsignal(number) for number in (*ENDING, CHECKPOINT, *PASSED_OVER)}
    for number in before:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_every_signal_that_ends_a_process_asks_the_run_to_stop(defaults, number):
    with Interruption() as interruption:
        os.kill(os.getpid(), number)
        assert interruption.requested == number.name
        if number in REPEATED:  # from the terminal and from the shell; each second of processor time
            os.kill(os.getpid(), number)
        else:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    assert EXIT_CODES[number.name] == 128 + number


@pytest.mark.parametrize("number", [number for number in ENDING if number != signal.SIGINT])
def test_where_nobody_notes_it_such_a_signal_raises_and_is_named(defaults, number):
    with endings_as_interrupts(), pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), number)
    assert stopped.value.name == number.name
    assert signal.getsignal(number) == signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_what_the_program_was_told_to_ignore_stays_ignored(defaults, number):
    signal.signal(number, signal.SIG_IGN)  # as nohup does
    with endings_as_interrupts(), Interruption() as interruption:
        os.kill(os.getpid(), number)
        assert interruption.requested is None
    assert signal.getsignal(number) == signal.SIG_IGN


def test_the_callers_own_handlers_stay(defaults):
    got = []
    own = [signal.SIGHUP, CHECKPOINT, *PASSED_OVER]
    for number in own:
        signal.signal(number, lambda number, frame: got.append(number))
    with stacks_when_asked(), Interruption() as interruption, interruption.note_checkpoint():
        for number in own:
            os.kill(os.getpid(), number)
        assert (interruption.requested, interruption.checkpoint_asked) == (None, False)
    assert got == own


@pytest.mark.parametrize("number", [CHECKPOINT, *PASSED_OVER])
def test_other_signals_are_passed_over_with_a_line(defaults, capfd, number):
    with stacks_when_asked():
        os.kill(os.getpid(), number)
        with Interruption() as interruption:
            os.kill(os.getpid(), number)
            assert interruption.requested is None
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"adam_mp: {number.name} came; ") for line in lines)


def test_a_checkpoint_can_be_asked_for(defaults, capfd):
    with stacks_when_asked(), Interruption() as interruption:
        with interruption.note_checkpoint():
            os.kill(os.getpid(), CHECKPOINT)
            assert interruption.checkpoint_asked
        assert signal.getsignal(CHECKPOINT) == signals._pass_over
    assert capfd.readouterr().err == ""
    assert signal.getsignal(CHECKPOINT) == signal.SIG_DFL


def test_no_signal_that_ends_a_process_is_forgotten():
    """Those that are left: they tell of faults of the program itself, cannot be handled, or Python handles them."""
    faults = {"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"}
    others = {"SIGKILL", "SIGUSR1", "SIGPIPE", "SIGXFSZ", "SIGRTMIN", "SIGRTMAX"}
    harmless = {"SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"}
    known = {number.name for number in (*ENDING, CHECKPOINT, *PASSED_OVER)}
    assert {number.name for number in signal.Signals} <= known | faults | others | harmless
