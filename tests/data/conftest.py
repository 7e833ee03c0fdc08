from __future__ import annotations

import socket

import pytest

from tests.data.sides import Side


@pytest.fixture
def make_side(forks):
    made = []

    def make(*arguments, **options):
        made.append(Side(*arguments, **options))
        return made[-1]

    yield make
    for side in made:
        side.close()


@pytest.fixture
def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
