from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam_mp.errors import SettingsError, TransportError
from adam_mp.transport.messages import Kind, Message
from adam_mp.transport.places import parse_place, way_to_dial, way_to_listen
from adam_mp.transport.socket_files import SocketFile, SocketFolder, remove_left_over
from adam_mp.transport.zeromq import SocketListener
from tests.transport.test_zeromq import HELLO, LARGE, SOON, ends, met, new_keys, send, serves, wait_until  # noqa: F401


@pytest.fixture
def file(tmp_path) -> SocketFile:
    (tmp_path / "mine").mkdir(mode=0o700)
    return SocketFile(tmp_path / "mine" / "server")


@given(st.text())
def test_any_text_is_a_place_or_refused(text):
    try:
        place = parse_place(f"unix:{text}", "--listen")
    except SettingsError:
        return
    assert place.path.is_absolute()
    assert parse_place(str(place), "--listen") == place


@pytest.mark.parametrize("text", ["unix:", "unix:/", "unix:a\nb", "unix:a\0b"])
def test_what_names_no_file_is_refused_in_one_line(text):
    with pytest.raises(SettingsError, match=r"^join is .*; expected unix: and the name of a file$") as error:
        parse_place(text, "--join")
    assert repr(text) in str(error.value)


def test_a_relative_file_is_of_the_folder_where_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_place("unix:state/server", "--listen") == SocketFile(tmp_path / "state" / "server")


def test_host_and_port_are_a_place_as_ever():
    assert str(parse_place("10.0.0.5:7700", "--join")) == "10.0.0.5:7700"


@pytest.mark.parametrize("side", ["none", "listener", "dialer", "both"])
def test_messages_go_both_ways_and_keys_make_no_difference(ends, file, side):  # noqa: F811
    keys = new_keys()
    listener = ends.listen(keys if side in ("listener", "both") else None, file)
    assert listener.address == file
    assert serves(ends, listener, keys if side in ("dialer", "both") else None)


def test_large_payloads_arrive_whole(ends, file):  # noqa: F811
    listener = ends.listen(None, file)
    dialer = ends.dial(file)
    met(dialer, listener)
    send(dialer, file, Message(Kind.DELTA, LARGE))
    _, message = listener.receive(SOON)
    assert bytes(message.payload) == LARGE.tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_a_path_may_be_longer_than_a_socket_name(ends, tmp_path):  # noqa: F811
    folder = tmp_path / ("x" * 200)
    folder.mkdir(mode=0o700)
    assert serves(ends, ends.listen(None, SocketFile(folder / "server")))


@pytest.mark.parametrize("way", [way_to_listen, way_to_dial])
class TestWhoMayCome:
    def test_a_folder_that_others_can_enter_is_refused(self, file, way):
        for mode in (0o701, 0o710, 0o755, 0o777):
            file.path.parent.chmod(mode)
            with pytest.raises(SettingsError, match="open to other users; make one of yours with: mkdir -m 700 DIR"):
                way(file, False)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
    def test_the_folder_of_another_user_is_refused(self, file, way):
        os.chown(file.path.parent, 54321, -1)
        with pytest.raises(SettingsError, match="belongs to user 54321; expected one of user 0, who runs this"):
            way(file, True)

    def test_a_folder_that_is_not_there_is_named(self, file, way):
        with pytest.raises(SettingsError, match=r"cannot use unix:.*/none/server: .*; name a file in a folder"):
            way(SocketFile(file.path.parent / "none" / "server"), False)

    def test_descriptors_are_given_back(self, file, way):
        before = len(os.listdir("/proc/self/fd"))
        way(file, False).close()
        file.path.parent.chmod(0o755)
        with pytest.raises(SettingsError):
            way(file, False)
        assert len(os.listdir("/proc/self/fd")) == before


def test_what_another_listens_on_is_refused(ends, file):  # noqa: F811
    listener = ends.listen(None, file)
    with pytest.raises(TransportError, match=r"cannot listen on unix:.*: address already in use; choose another"):
        SocketListener(file, None)
    assert serves(ends, listener)


def test_a_file_that_is_no_socket_is_left_alone(file):
    file.path.write_text("weights")
    with pytest.raises(TransportError, match="a file has that name; choose another --listen"):
        SocketListener(file, None)
    assert file.path.read_text() == "weights"


def test_a_successor_takes_the_socket_of_one_that_was_killed(ends, file):  # noqa: F811
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(file.path))
    left.listen()
    left.close()  # as the kernel does for a process that is killed: the file stays
    assert serves(ends, ends.listen(None, file))


def test_a_listener_that_comes_back_is_dialled_again(ends, file):  # noqa: F811
    first = ends.listen(None, file)
    dialer = ends.dial(file)
    met(dialer, first)
    first.close()
    assert not file.path.exists()
    # What is sent into a connection before its end is noticed goes with it.
    wait_until(lambda: dialer.receive(0.05) is None and dialer.statistics().lost == 1, "the dialer to see the end")
    second = ends.listen(None, file)
    met(dialer, second)
    assert dialer.statistics().lost == 1


def test_what_a_socket_file_tells_of_why_nobody_answers(ends, file):  # noqa: F811
    dialer = ends.dial(file)
    assert dialer.trouble(file) == "there is no such socket file"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(file.path))
    wait_until(lambda: dialer.receive(0.05) or "nobody listens at" in dialer.trouble(file), "it to see the socket file")
    file.path.unlink()
    file.path.touch()
    wait_until(lambda: dialer.trouble(file) == "this file is no socket", "it to see the file")
    file.path.unlink()
    file.path.parent.rmdir()
    assert dialer.trouble(file) == "there is no such socket file"


def test_what_is_dialled_is_the_folder_that_was_checked(ends, file):  # noqa: F811
    """Another folder at its path is another's: what the dialer says must not go there."""
    dialer = ends.dial(file)
    file.path.parent.rename(file.path.parent.with_name("old"))
    file.path.parent.mkdir(mode=0o700)
    false = ends.listen(None, file)
    assert false.receive(0.5) is None
    assert dialer.send(file, HELLO) is None
    right = ends.listen(None, SocketFile(file.path.parent.with_name("old") / file.path.name))
    send(dialer, file, HELLO)
    assert right.receive(SOON) is not None


def _hold(path: str, ready) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = path
    held = SocketFolder()
    ready.send(str(held.path))
    ready.poll(60)


class TestSocketFolder:
    @pytest.fixture(autouse=True)
    def temporary(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def test_it_is_this_users_alone_and_ends_with_its_owner(self, tmp_path):
        with contextlib.closing(SocketFolder()) as folder:
            assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
            way_to_listen(SocketFile(folder.path / "server"), False).close()
            (folder.path / "server").touch()
        assert not list(tmp_path.iterdir())

    def test_that_of_a_living_process_stays_and_that_of_a_killed_one_goes(self, tmp_path):
        here, there = multiprocessing.Pipe()
        child = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(tmp_path), there))
        child.start()
        try:
            assert here.poll(60)
            held = Path(here.recv())
            SocketFolder().close()
            assert held.exists()
        finally:
            child.kill()
            child.join(20)
        assert held.exists()
        SocketFolder().close()
        assert not held.exists()
        assert remove_left_over() == []

    def test_what_looks_like_one_and_is_a_link_is_not_followed(self, tmp_path):
        (tmp_path / "dear").mkdir()
        (tmp_path / "dear" / "weights").touch()
        (tmp_path / "adam_mp-sockets-link").symlink_to(tmp_path / "dear")
        SocketFolder().close()
        assert (tmp_path / "dear" / "weights").exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
    def test_another_users_is_left_alone(self, tmp_path):
        other = tmp_path / "adam_mp-sockets-other"
        other.mkdir()
        os.chown(other, 54321, -1)
        SocketFolder().close()
        assert other.exists()

    def test_where_none_can_be_made_it_says_what_to_do(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
        with pytest.raises(TransportError, match=r"cannot make a folder for sockets: .*; set TMPDIR to another"):
            SocketFolder()
