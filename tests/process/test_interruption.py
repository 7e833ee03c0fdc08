from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from adam_mp.process.interruption import Interruption


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
