"""What a run decides before it starts processes: everything in a `RunPlan`.

`plan` makes the plan, `run_plan` is what it is, `requirements` are checked before anything that takes time. `split`
measures costs and divides the cores between workers and data servers, `memory_need` counts the memory that the run will
take, `group_shape` that of what partitions send each other, `fitting` over how many machines a large model fits.
`quorum` is the arithmetic of an epoch's end, `calibration` names the images on which norms are measured. `resuming`
takes up the settings, checkpoint and best model of an earlier part of the run, `same_data` sees whether the data are
still those of that part.
"""
