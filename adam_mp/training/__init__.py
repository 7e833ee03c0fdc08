"""A run: its settings and plan, its workers, epochs and checkpoints, and the supervisor that owns all of it.

Read `worker.worker` first: it is the paper's training loop in one screen. Then `epoch.machine`, which decides what a
run does next. The rooms, each of which imports only from those before it:

- `settings/`: what a user can ask of a run, and the events that a run reports.
- `folder/`: what a run leaves on disk: the run folder, checkpoints, figures.
- `data/`: what is decided about a data set: its parts, the survey, the cache.
- `plan/`: what is decided before a run starts processes.
- `worker/`: the worker, and how workers keep together.
- `crew/`: the processes of a run and the memory that they share.
- `replica/`: which batches a machine trains, alone or as a replica of a run of many machines.
- `epoch/`: what happens in an epoch and after it; the supervisor.

`trainer` trains, `evaluation` evaluates a model, `benchmark` measures speed; `preloading` names what a fork server
loads for them.

May import: `errors`, `machine`, `process`, `kernels`, `network`, `memory`, `transport`, `compute`, `data`, `params`. A
run reports by `settings.events`; `report` shows them.
"""
