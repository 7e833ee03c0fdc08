from __future__ import annotations

import pytest

from tests.data.sides import Side
from tools import ports


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
    return ports.free_port()
