"""What a run leaves on disk.

`run_folder` is the folder, its lock and `run.json`; `checkpoint` writes and reads checkpoints; `keeper` decides when
checkpoints and the best model are copied and written, `direct_keeper` writes them at once, where the weights lie on
several machines; `figures` are the counted figures of a run, which a checkpoint
keeps; `places` finds the files of a run's settings from any folder.
"""
