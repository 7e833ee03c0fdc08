"""Who makes batches: the data server of a run, and `serve-data` with its picture makers for runs on other machines."""
