"""What a run leaves on disk: the run folder, checkpoints, the model, figures."""
