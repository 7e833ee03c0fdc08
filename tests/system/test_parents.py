"""The library starts its processes from any parent: a script without guard, a pipe, a thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import psutil

import adam_mp
from adam_mp import Dense, Flatten, Softmax
from adam_mp.memory.segment import live_segments

PROGRAM = """
import numpy as np
import adam_mp
from adam_mp import Dense, Flatten, Softmax
generator = np.random.default_rng(0)
labels = generator.integers(3, size=300)
images = generator.random((300, 9, 9)) + 2 * labels[:, None, None]
result = adam_mp.train([Flatten(), Dense(), Softmax()], (images, labels), cores=2, epochs=2, lr=0.01, quiet=True)
print(result.images_trained)
"""


def run_program(arguments, tmp_path, text=None):
    done = subprocess.run(
        [sys.executable, *arguments], input=text, capture_output=True, text=True, cwd=tmp_path, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["570"]


def test_a_script_without_guard(tmp_path):
    (tmp_path / "script.py").write_text(PROGRAM)
    run_program(["script.py"], tmp_path)


def test_standard_input(tmp_path):
    run_program(["-"], tmp_path, PROGRAM)


def test_a_command_line_program(tmp_path):
    run_program(["-c", PROGRAM], tmp_path)


def test_a_thread(tmp_path):
    body = "".join(f"    {line}\n" for line in PROGRAM.splitlines())
    run_program(
        ["-c", f"import threading\ndef go():\n{body}\nt = threading.Thread(target=go)\nt.start()\nt.join()"], tmp_path
    )


def test_the_library_in_this_process(tmp_path, forks):
    generator = np.random.default_rng(1)
    labels = generator.integers(4, size=400)
    images = generator.random((400, 10, 10)).astype(np.float32) * 0.3
    images[np.arange(400), labels * 2] += 1
    result = adam_mp.train(
        [Flatten(), Dense(), Softmax()], (images, labels, images[:100], labels[:100]), cores=1, epochs=8, lr=0.1,
        augment="none", run_dir=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert result.test_accuracy == 1.0
    assert result.model.predict(images[:5]).argmax(axis=1).tolist() == labels[:5].tolist()
    assert adam_mp.load(tmp_path / "run").evaluate(images, labels) == 1.0


def test_a_run_in_this_process_gives_everything_back(tmp_path):
    generator = np.random.default_rng(1)
    data = generator.random((200, 10, 10)), generator.integers(3, size=200)
    others, held = psutil.Process().children(recursive=True), []
    for name in ("first", "second"):  # Matplotlib, which the first one loads, keeps its fonts open
        adam_mp.train([Flatten(), Dense(), Softmax()], data, cores=2, epochs=1, run_dir=tmp_path / name, quiet=True)
        held.append((psutil.Process().num_fds(), threading.active_count()))
    assert psutil.Process().children(recursive=True) == others
    assert not [
        segment for segment in live_segments() if segment.owner == os.getpid() and segment.purpose in ("run", "store")
    ]
    assert held[1][0] <= held[0][0]
    assert held[1][1] <= held[0][1]
