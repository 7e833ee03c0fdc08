"""scikit-learn's MLPClassifier on the zoo's dense network: one pass of partial_fit over random images."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

from adam_mp.network.layers import Dense
from adam_mp.network.network import Network


class SklearnStep:
    """A partial_fit of one batch with plain gradient descent, as MLPClassifier does it."""

    def __init__(self, network: Network, images: np.ndarray, labels: np.ndarray, rate: float) -> None:
        hidden = [layer.units for layer in network.layers if isinstance(layer, Dense)][:-1]
        arguments: dict[str, Any] = {
            "hidden_layer_sizes": hidden, "solver": "sgd", "alpha": 0.0, "momentum": 0.0, "nesterovs_momentum": False,
            "learning_rate_init": rate, "batch_size": len(images),
        }  # fmt: skip
        self.model = MLPClassifier(**arguments)
        self.images, self.labels = images.reshape(len(images), -1), labels
        self.model.partial_fit(self.images, self.labels, classes=np.arange(network.classes))

    def run(self) -> None:
        """Do one step."""
        self.model.partial_fit(self.images, self.labels)
