"""How a run is shown and recorded. `training` calls listeners with events (`training.settings.events`).

- Listeners: `progress` shows a run on the terminal, `metrics` writes metrics.jsonl, `curves` draws curves.png,
  `failures` writes failures.log.
- Texts and pictures for commands: `text` has the words for a run, `speed` those of `bench`, `cluster_text` those of
  `status`, `partitions` those of a cut; `contact_sheet` is the picture of `show-data`; `drawing` makes figures of
  matplotlib.

May import: `errors`, `machine`, `process`, `kernels`, `network`, `memory`, `compute`, `data`, `training`.
"""
