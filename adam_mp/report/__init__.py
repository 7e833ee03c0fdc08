"""How a run is shown and recorded: terminal, metrics file, curves. Everything here listens to `training.events`.

May import: `errors`, `machine`, `kernels`, `network`, `memory`, `compute`, `data`, `training`.
"""
