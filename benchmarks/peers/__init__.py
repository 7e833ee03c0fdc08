"""The same work done by others: PyTorch, its Hogwild recipe, its DDP, scikit-learn. Needs the extra `peers`."""
