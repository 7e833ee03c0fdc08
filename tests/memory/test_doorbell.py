from __future__ import annotations

import os
import select

from adam_mp.memory.doorbell import Doorbell


def test_a_ring_is_heard_once_and_wakes_who_waits():
    bell = Doorbell.create()
    try:
        assert not bell.hear()
        bell.ring()
        bell.ring()
        assert select.select([bell.descriptor], [], [], 5)[0] == [bell.descriptor]
        assert bell.hear()
        assert not bell.hear()
        assert not os.get_inheritable(bell.descriptor)
    finally:
        bell.close()
