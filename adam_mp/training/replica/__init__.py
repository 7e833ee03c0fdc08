"""Being one of many: which batches a replica trains, joining a run, a launched run's other parts."""
