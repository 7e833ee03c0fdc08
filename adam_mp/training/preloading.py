"""What a fork server imports and loads, so that a run's processes are at work as soon as they are forked.

The modules are named, not imported: whoever starts a fork server early has not loaded them itself. Those that bring
ZeroMQ are left to the processes that need them.
"""

from __future__ import annotations

LOADED = "adam_mp.kernels.compilation:load_kernels"
OF_A_RUN = ("adam_mp.training.worker.worker", "adam_mp.data.serving.server", "adam_mp.data.survey", LOADED)
OF_A_DATA_SERVER = ("adam_mp.data.serving.picture_maker", "adam_mp.data.survey", LOADED)
