"""What happens in an epoch and after it: orders, validation, checkpoints, divergence, figures."""
