"""What a user can ask of a run, and what a run reports while it goes on.

`settings` has every setting. `option` is how one is declared, with its help and the values that it may have; `texts`
are helps that name kernels. `combinations` checks which settings fit together. `settings_file` reads TOML. `cache_size`
understands sizes. `schedule` is the learning rate over a run, `shapes` are parts of
it with names, `rates` says which tensors take more or less of it. `averages` says which weights become the model.
`consistency` says how the workers keep together.
`events` are the records that a run hands to listeners.
"""
