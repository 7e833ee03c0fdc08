from __future__ import annotations

import numpy as np
import pytest

import adam_mp
from adam_mp.cli.evaluate import run

pytestmark = pytest.mark.usefixtures("forks")


def test_the_model_file_of_a_run_was_trained_on_the_data_of_the_run(tmp_path, capfd):
    data = tmp_path / "data.npz"
    np.savez(data, x=np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32), y=np.arange(60) % 3)
    layers = [adam_mp.Flatten(), adam_mp.Dense(), adam_mp.Softmax()]
    trained = adam_mp.train(layers, str(data), cores=1, epochs=1, quiet=True, run_dir=tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        assert run([str(path), "--data", str(data)]) == 0
        assert "the model was trained on images of" in capfd.readouterr().err
    trained.model.save(tmp_path / "model.safetensors")
    assert run([str(tmp_path / "model.safetensors"), "--data", str(data)]) == 0
    assert capfd.readouterr().err == ""
