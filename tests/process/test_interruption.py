from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from adam_mp.process.interruption import Interruption, Stopped, sigterm_as_interrupt


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
        with sigterm_as_interrupt():
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
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
