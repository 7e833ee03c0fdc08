"""One thread everywhere, before any BLAS is loaded: a worker's conditions."""

from __future__ import annotations

import os

from adam_mp.machine import ONE_THREAD

os.environ.update(ONE_THREAD)
