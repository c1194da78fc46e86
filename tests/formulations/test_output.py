"""Every kind of place that a name may lead to: it is written to, and stays what it is."""

import errno
import os
import pty
import stat
import threading

import pytest

from formulations.errors import InputError
from formulations.output import check_output, is_stdout, write_output


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path):
    file = tmp_path / "a.json"
    write_output(file, b"new")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask
    with open(file) as before:
        file.chmod(0o640)
        write_output(file, b"newer")
        assert before.read() == "new"  # it was not written over
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"newer", 0o640)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_keeps_its_owner(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b"old")
    os.chown(file, 1, 2)
    write_output(file, b"new")
    assert (file.stat().st_uid, file.stat().st_gid, file.read_bytes()) == (1, 2, b"new")


@pytest.mark.parametrize("refused", ["fchown", "open", "replace"])
def test_where_a_file_cannot_be_replaced_as_it_was_it_is_written_over(
    tmp_path, monkeypatch, refused
):
    file = tmp_path / "a.json"
    file.write_bytes(b"old and longer")
    place = file.stat().st_ino
    monkeypatch.setattr("formulations.output._inherit", lambda handle, old: os.fchown(handle, 1, 2))

    def refuse(*arguments, **options):
        raise OSError(errno.EBUSY if refused == "replace" else errno.EPERM, "no")

    monkeypatch.setattr(os, refused, refuse)
    write_output(file, b"new")
    assert (file.read_bytes(), file.stat().st_ino) == (b"new", place)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("there", [True, False])
def test_symbolic_links_are_followed_and_stay(tmp_path, there):
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder/a.json"
    if there:
        file.write_bytes(b"old")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("folder/a.json")
    check_output(tmp_path / "one", "--json")
    write_output(tmp_path / "one", b"new")
    assert file.read_bytes() == b"new"
    assert (tmp_path / "one").is_symlink()
    assert (tmp_path / "two").is_symlink()


@pytest.mark.parametrize("linked", [True, False])
def test_a_pipe_is_written_into(tmp_path, linked):
    pipe = path = tmp_path / "pipe"
    os.mkfifo(pipe)
    if linked:
        path = tmp_path / "link"
        path.symlink_to(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    check_output(path, "--json")
    write_output(path, b"x" * 200_000)
    reader.join(30)
    assert read == [b"x" * 200_000]
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)


def test_a_device_is_written_into(tmp_path):
    terminal, other = pty.openpty()
    path = tmp_path / "device"
    path.symlink_to(os.ttyname(other))
    device = path.stat().st_rdev
    write_output(path, b"said")
    assert os.read(terminal, 10) == b"said"
    assert path.stat().st_rdev == device
    os.close(terminal)
    os.close(other)


@pytest.mark.parametrize("number", [0, 1])
def test_the_numbered_stream_of_a_file_is_not_replaced(tmp_path, number):
    with open(tmp_path / "log", "wb") as log:
        log.write(b"before ")
        log.flush()
        path = f"/dev/fd/{log.fileno()}"
        if number:
            (tmp_path / "link").symlink_to(path)
            path = tmp_path / "link"
        check_output(type(tmp_path)(path), "--json")
        write_output(type(tmp_path)(path), b"between")
        log.seek(0, os.SEEK_END)
        log.write(b" after")
    assert (tmp_path / "log").read_bytes() == b"before between after"


def test_standard_output_has_two_names(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    path = type(tmp_path)
    assert all(map(is_stdout, (path("-"), path("/dev/stdout"), path("/dev/fd/1"), link)))
    assert not any(map(is_stdout, (tmp_path / "a", path("/dev/stderr"), path("1"))))


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match=r"symbolic links.*a'"):
        write_output(tmp_path / "a", b"")


def test_a_full_disk_is_said_with_the_name_and_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    file.write_bytes(b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_output(file, b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))
    assert file.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    file.write_bytes(b"old")
    with pytest.raises(InputError, match=r"--json .* is a folder: name a file"):
        check_output(tmp_path, "--json")
    with pytest.raises(InputError, match=r"there is no folder .*/no$"):
        check_output(tmp_path / "no/a.json", "--json")
    (tmp_path / "link").symlink_to("no/a.json")
    with pytest.raises(InputError, match=r"link: there is no folder .*/no$"):
        check_output(tmp_path / "link", "--json")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"a\.json cannot be written: Permission denied"):
        check_output(file, "--json")
