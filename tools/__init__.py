"""Programs for those who work on adam_mp."""
