"""The worker: the paper's training loop, and the ways in which workers keep together."""
