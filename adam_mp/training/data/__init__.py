"""What is decided about a data set before a run: the survey, cache, split and augmentation, a preview."""
