from __future__ import annotations

import os
import signal
import threading

import pytest

from adam_mp.training.interruption import Interruption


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
