"""What is decided before any process starts: the plan of a run, cores, memory, what a resumed run takes up."""
