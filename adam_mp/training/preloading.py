"""The modules that a fork server imports, so that a run's processes can work as soon as they are forked.

They are names, because a command starts the fork server before it has imported them itself. Modules that import ZeroMQ
are left out: a fork server must not hold it, so the processes that need it import it themselves.
"""

from __future__ import annotations

LOADED = "adam_mp.kernels.compilation:load_kernels"  # module:function, which the fork server calls
OF_A_RUN = ("adam_mp.training.worker.worker", "adam_mp.data.serving.server", "adam_mp.data.survey", LOADED)
OF_A_DATA_SERVER = ("adam_mp.data.serving.picture_maker", "adam_mp.data.survey", LOADED)  # for adam-mp serve-data
