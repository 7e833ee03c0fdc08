"""What a run says of the classes of its parts before it trains."""

from __future__ import annotations

import numpy as np

from adam_mp.training.data.understanding import check_data
from tests.data.pictures_on_disk import write_folder


def test_classes_that_a_part_lacks_are_told(tmp_path):
    for part in ("train", "val", "test"):
        write_folder(tmp_path / part, 4)

    def told() -> list[str]:
        return [note for note in check_data({"data": str(tmp_path)}, lambda event: None).notes if "no image" in note]

    assert told() == []
    for part, what in (("val", "validate"), ("test", "test")):
        for path in (tmp_path / part / "red").iterdir():
            path.unlink()
        assert told()[-1] == f"no image to {what} on of the class red"
    assert len(told()) == 2


def test_what_is_held_out_may_lack_small_classes_without_a_line(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((62, 4, 4), np.uint8), y=[0] * 30 + [1] * 30 + [2, 2])
    found = check_data({"data": str(tmp_path / "data.npz")}, lambda event: None)
    assert found.class_counts["validation"][2] == 0
    assert not any("no image" in note for note in found.notes)
