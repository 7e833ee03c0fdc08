"""Streams of all kinds: nothing that happens to one ends the work, and no letter is too much for it."""

from __future__ import annotations

import ast
import errno
import fcntl
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import adam_mp
from adam_mp.errors import OutputError, ReaderGoneError
from adam_mp.process import output
from adam_mp.process.output import Output, guarded_streams, notice, one_line, standard_error, standard_output

ROOT = Path(adam_mp.__file__).parent
ODD = "čert 日本 \udcff ünï"


class Tee:
    """All that print() needs."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


class Refusing(Tee):
    """A stream that raises `error` from `write`, from call number `first` on."""

    def __init__(self, error, first=0):
        super().__init__()
        self.error, self.left = error, first

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self.error
        super().write(text)


class Odd(Tee):
    """A stream whose every attribute but `write` raises."""

    def __getattr__(self, name):
        raise RuntimeError(name)


class InAscii(Tee):
    """A stream that does not tell that the file behind it is in ASCII."""

    def write(self, text):
        self.text += text.encode("ascii").decode()


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def text_file(descriptor, encoding="utf-8", errors="strict"):
    return io.TextIOWrapper(open(descriptor, "wb", closefd=False), encoding, errors)


BROKEN = {
    "none": None,
    "closed": closed(),
    "nothing": object(),
    "a pipe without a reader": Refusing(BrokenPipeError(errno.EPIPE, "Broken pipe")),
    "full": Refusing(OSError(errno.ENOSPC, "No space left on device")),
    "odd error": Refusing(ZeroDivisionError("no reason")),
    "unicode error at any text": Refusing(UnicodeEncodeError("ascii", "x", 0, 1, "no")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_stream_that_cannot_be_written_drops_remarks_and_refuses_answers(name):
    stream = Output(BROKEN[name], "standard output")
    stream.say("a remark")
    print("a remark", file=stream, flush=True)
    assert stream.dropped >= 2
    assert stream.isatty() is False
    expected = ReaderGoneError if "pipe" in name else OutputError
    with pytest.raises(expected, match=r"^the answer could not be written to standard output: \S") as caught:
        stream.answer("an answer")
    assert caught.value.exit_code == (141 if "pipe" in name else 5)
    with pytest.raises(expected) as caught:
        stream.answer("an answer", 143)
    assert caught.value.exit_code == 143


@pytest.mark.parametrize("kind", [Tee, Odd, InAscii, io.StringIO, MagicMock])
def test_a_stream_needs_only_write(kind):
    stream = kind()
    Output.of(stream).say(ODD)
    Output.of(stream).answer("answer")
    if kind is io.StringIO:
        assert stream.getvalue() == f"{ODD}\nanswer\n"
    elif kind is InAscii:
        assert stream.text == "\\u010dert \\u65e5\\u672c \\udcff \\xfcn\\xef\nanswer\n"
    elif kind is MagicMock:
        assert stream.write.call_count == 2
    else:
        assert stream.text == f"{ODD}\nanswer\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16", "koi8-r", "iso2022_jp"])
@pytest.mark.parametrize("on_disk", [True, False])
def test_letters_that_a_stream_lacks_are_escaped(encoding, on_disk, tmp_path):
    file = open(tmp_path / "text", "w+b") if on_disk else io.BytesIO()  # noqa: SIM115
    stream = Output(text_file(file.fileno(), encoding) if on_disk else io.TextIOWrapper(file, encoding))
    stream.answer(ODD)
    stream.answer(ODD)
    file.seek(0)
    said = file.read().decode(encoding)
    file.close()
    assert said.count("\n") == 2
    assert ("ünï" if encoding in ("latin-1", "cp1252", "utf-8", "utf-16") else "\\xfcn\\xef") in said
    assert ("日本" if encoding in ("utf-8", "utf-16", "iso2022_jp") else "\\u65e5\\u672c") in said
    assert "\\udcff" in said


@given(st.text(), st.sampled_from(["ascii", "latin-1", "utf-8", "utf-16", "shift_jis"]))
def test_any_text_can_be_said_and_is_one_line(text, encoding):
    text += "\ud800\udc80"
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    Output(stream).answer(text)
    assert len(one_line(text).splitlines()) <= 1
    assert one_line(text).isascii() or one_line(text).encode("utf-8")
    assert one_line(one_line(text)) == one_line(text)


BESIDE = {  # what may use a stream itself: before anything of adam_mp can be imported, and as a process ends
    ("clash.py", "print"), ("clash.py", "sys.stderr"), ("__main__.py", "print"), ("__main__.py", "sys.stderr"),
    ("process/entry.py", "sys.stdout"), ("process/entry.py", "sys.stderr"),
    ("compute/model.py", "warnings.warn"),  # to callers of the library, who choose what becomes of it
}  # fmt: skip


def test_nothing_else_prints():
    wrong = []
    for path in ROOT.rglob("*.py"):
        if path == Path(output.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node) if isinstance(node, (ast.Attribute, ast.Name)) else ""
            if name in ("print", "sys.stdout", "sys.stderr", "warnings.warn") or name.endswith(
                (".print_exc", "getLogger")
            ):
                place = str(path.relative_to(ROOT))
                wrong += [] if (place, name) in BESIDE else [f"{place}:{node.lineno} {name}"]
    assert not wrong


def test_one_line_shows_what_is_odd_in_a_name():
    assert one_line("a\nb\tc\r\x1b[2J\x85\u2028\udcff 'q\" é") == "a\\nb\\tc\\r\\x1b[2J\\u0085\\u2028\\xff 'q\" é"
    assert one_line(os.fsdecode(b"\xff\xe9.png")) == "\\xff\\xe9.png"


def test_what_is_said_cannot_move_the_cursor():
    stream = Tee()
    Output(stream).say("two\nlines\x1b]0;title\x07\x9b2J")
    assert stream.text == "two\nlines\\x1b]0;title\\x07\\u009b2J\n"


def test_a_stream_that_can_be_written_again_is_written_again():
    stream = Refusing(OSError(errno.ENOSPC, "No space left on device"))
    remarks = Output(stream)
    remarks.say("lost")
    stream.left = 10
    remarks.say("kept")
    assert (stream.text, remarks.dropped, remarks.trouble) == ("kept\n", 1, None)


def test_that_standard_output_drops_text_is_said_once(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Refusing(OSError(errno.ENOSPC, "No space left on device")))
    monkeypatch.setattr(sys, "stderr", Tee())
    for _ in range(3):
        standard_output().say("lost")
    expected = "cannot write to standard output: No space left on device; the work goes on without it"
    assert sys.stderr.text == f"adam_mp: {expected}\n"
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    notice("lost")
    assert standard_error().dropped == 1


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_a_reader_that_stops_reading_holds_up_the_work_for_a_while_only(pipe, monkeypatch):
    monkeypatch.setattr(output, "_PATIENCE", 0.2)
    reading, writing = pipe
    remarks = Output(text_file(writing))
    began = time.monotonic()
    for number in range(200):
        remarks.say(f"{number} " + "x" * 5000)
    assert time.monotonic() - began < 10
    assert remarks.dropped > 150
    assert isinstance(remarks.trouble, TimeoutError)
    while len(os.read(reading, 1 << 20)) == 1 << 20:
        pass
    remarks.say("read again")
    assert os.read(reading, 1 << 20).endswith(b"read again\n")


def test_a_pipe_that_does_not_block_takes_a_long_answer(pipe):
    reading, writing = pipe
    fcntl.fcntl(writing, fcntl.F_SETFL, os.O_NONBLOCK)
    with subprocess.Popen(["sh", "-c", "sleep 0.3; wc -c"], stdin=reading, stdout=subprocess.PIPE) as reader:
        os.set_inheritable(writing, False)
        Output(text_file(writing)).answer("x" * 500_000)
        os.dup2(os.open(os.devnull, os.O_RDWR), writing)  # the end of the pipe's content
        assert reader.stdout.read().split() == [b"500001"]


def test_text_that_a_file_refuses_stays_in_no_buffer():
    with open("/dev/full", "wb", buffering=0) as file:
        stream = text_file(file.fileno())
        Output(stream).say("x" * 100)
        stream.flush()  # raises if anything is left


def run_guarded(program, unbuffered="", **streams):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    head = "import sys\nfrom adam_mp.process.output import guarded_streams, standard_output\n"
    return subprocess.run([sys.executable, "-c", head + program], env=environment, timeout=60, check=False, **streams)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_whatever_prints_in_a_guarded_process_cannot_fail(unbuffered):
    program = """
import logging, traceback, warnings
with guarded_streams():
    for stream in (sys.stdout, sys.stderr):
        print("x" * 10000, file=stream, flush=True)
        stream.write("y"); stream.writelines(["a", "b"]); stream.flush()
    warnings.warn("careful"); logging.error("logged")
    try: 1 / 0
    except ZeroDivisionError: traceback.print_exc()
sys.exit(7)
"""
    with open("/dev/full", "wb") as full:
        assert run_guarded(program, unbuffered, stdout=full, stderr=full).returncode == 7
    closing = f"import os\nos.close(1); os.close(2)\n{program}"
    assert run_guarded(closing, unbuffered).returncode == 7


def test_what_others_left_in_a_buffer_does_not_change_the_exit_code():
    with open("/dev/full", "wb") as full:
        done = run_guarded(
            "sys.stdout.write('left')\nwith guarded_streams(): pass\nsys.exit(7)", stdout=full, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (7, b"")


def test_the_streams_are_given_back(monkeypatch):
    before = sys.stdout, sys.stderr
    with guarded_streams():
        assert isinstance(sys.stdout, Output)
        assert standard_output() is sys.stdout
        assert Output.of(sys.stdout) is sys.stdout
        with guarded_streams():
            assert standard_output().stream is before[0]
    assert (sys.stdout, sys.stderr) == before
    other = Tee()
    with guarded_streams():
        monkeypatch.setattr(sys, "stdout", other)
    assert sys.stdout is other


def test_a_closed_stream_takes_no_file_that_is_opened_later(tmp_path):
    program = (
        "import os, sys\nos.close(1); os.close(2); os.close(0)\n"
        "from adam_mp.process.interruption import stacks_when_asked\n"
        f"with stacks_when_asked():\n    file = open({str(tmp_path / 'file')!r}, 'w')\n    os.write(2, b'x')\n"
        "sys.exit(file.fileno())"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode > 2
    assert (tmp_path / "file").read_bytes() == b""
