"""Files that are never half written, whose links and modes stay, and that one process changes."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kanlib.training import files
from kanlib.training.files import located, locked, read, sweep, write_atomically


def mode(path):
    return path.stat().st_mode & 0o777


@pytest.fixture
def umask():
    """Set the umask and restore it."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


# Writing


def test_write_creates_folders_and_replaces_the_content(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, b"one")
    write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert [*path.parent.iterdir()] == [path]


class Killed(BaseException):
    """Stands for whatever ends a process while it writes."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()], ids=repr)
@pytest.mark.parametrize("call", ["fdopen", "fsync", "replace"])
def test_write_that_fails_leaves_the_old_file_and_no_other(call, error, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(type(error)) as caught:
            write_atomically(path, b"new")
    assert len(str(caught.value).splitlines()) <= 1
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_write_shows_readers_the_old_or_the_new_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []
    for call in ("fdopen", "fsync", "replace"):
        original = getattr(os, call)

        def looking(*arguments, original=original):
            seen.append(path.read_bytes())
            return original(*arguments)

        monkeypatch.setattr(os, call, looking)
    write_atomically(path, b"new")
    assert seen == [b"old"] * 3
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("place", ["file/name", "file/folder/name", "folder", "/proc/name"])
def test_write_to_an_impossible_place_names_it_and_the_remedy(place, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for call in (lambda path: write_atomically(path, b"content"), lambda p: locked(p).__enter__()):
        with pytest.raises(
            OSError, match=rf"cannot write .*{place} \(.*\): choose a file in a folder"
        ):
            call(tmp_path / place)
    assert (tmp_path / "file").read_text() == "in the way"
    assert [*(tmp_path / "folder").iterdir()] == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_file_has_the_mode_that_the_umask_gives(mask, tmp_path, umask):
    umask(mask)
    write_atomically(tmp_path / "file", b"content")
    assert mode(tmp_path / "file") == 0o666 & ~mask


@pytest.mark.parametrize("old", [0o600, 0o660, 0o664, 0o755])
def test_old_file_keeps_its_mode_and_is_never_more_open(old, tmp_path, umask, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(old)
    seen, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(os.fstat(handle)) or fsync(handle))
    write_atomically(path, b"new")
    assert mode(path) == old
    assert not seen[0].st_mode & 0o777 & ~old


def test_read_only_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(OSError, match=r"cannot write .*file \(it is read-only\): choose"):
        write_atomically(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"old", 0o444)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_old_file_keeps_its_owner(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 12, 34)
    write_atomically(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


def test_file_system_without_modes_and_owners_is_written_to(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o666)
    for call in ("chmod", "chown"):
        monkeypatch.setattr(os, call, refuse)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("exists", [True, False])
def test_link_stays_and_its_target_is_written(exists, tmp_path):
    target, first, second = tmp_path / "data" / "file", tmp_path / "first", tmp_path / "second"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"old")
    first.symlink_to("data/file")
    second.symlink_to(first)
    write_atomically(second, b"new")
    assert target.read_bytes() == b"new"
    assert first.is_symlink()
    assert second.is_symlink()
    assert [*target.parent.iterdir()] == [target]


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match=r"cannot write .*a \(.*\): choose"):
        write_atomically(tmp_path / "a", b"content")
    with pytest.raises(OSError, match=r"cannot read .*a \(.*\): name another"):
        read(tmp_path / "a")


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_atomically("~/file", b"content")
    assert (tmp_path / "home" / "file").read_bytes() == read("~/file") == b"content"
    assert located("~/x") == tmp_path / "home" / "x"
    assert not Path("~").exists()
    with pytest.raises(OSError, match=r"cannot write ~no-such-user/x \(.*\): choose"):
        write_atomically("~no-such-user/x", b"content")
    with pytest.raises(OSError, match=r"cannot find ~no-such-user/x \(.*\): name another"):
        located("~no-such-user/x")


def special(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    return [pipe, link, "/dev/zero", "/dev/full", "/dev/null"]


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    for path in special(tmp_path):
        with pytest.raises(OSError, match=r"cannot read .* \(it is a pipe or a device\): name an"):
            read(path)
        with pytest.raises(OSError, match=r"cannot write .* \(it is a pipe or a device\): choose"):
            write_atomically(path, b"content")
        with pytest.raises(OSError, match=r"cannot write .* \(it is a pipe or a device\): choose"):
            locked(path).__enter__()


def test_standard_output_is_refused():
    code = (
        "from kanlib.training.files import write_atomically; write_atomically('/dev/stdout', b'x')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert "cannot write /dev/stdout (it is a pipe or a device)" in done.stderr.splitlines()[-1]


def test_what_is_missing_or_a_folder_is_not_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"file .*none does not exist: name another file"):
        read(tmp_path / "none")
    with pytest.raises(OSError, match=r"cannot read .* \(it is a folder\): name another file"):
        read(tmp_path)


# What killed processes leave


def write_and_wait(path, pipe):
    """Write a file and wait for ever just before it gets its name."""

    def wait(*_):
        pipe.send("writing")
        time.sleep(600)

    os.replace = wait
    write_atomically(path, b"never there")


@pytest.fixture
def writer(tmp_path):
    """Return the file that another process is writing, and this process."""
    ours, theirs = multiprocessing.Pipe()
    path = tmp_path / "r[1].json"
    process = multiprocessing.get_context("fork").Process(
        target=write_and_wait, args=(path, theirs), daemon=True
    )
    process.start()
    assert ours.recv() == "writing"
    yield path, process
    process.kill()
    process.join()


def test_next_write_removes_what_killed_ones_left_and_nothing_else(writer):
    path, process = writer
    (temporary,) = path.parent.iterdir()
    other = path.with_name(temporary.name.replace("r[1]", "r1"))
    other.write_bytes(b"belongs to another file")
    write_atomically(path, b"one")
    assert {*path.parent.iterdir()} == {temporary, other, path}  # the writer lives
    process.kill()
    process.join()
    write_atomically(path, b"two")
    assert {*path.parent.iterdir()} == {other, path}
    assert path.read_bytes() == b"two"


def test_sweep_needs_no_file_and_no_folder(writer, tmp_path):
    path, process = writer
    process.kill()
    process.join()
    sweep(path)
    assert [*tmp_path.iterdir()] == []
    sweep(tmp_path / "none" / "file")


# Locks


def count(path, times, hold):
    """Add one to the number in a file, time and again."""
    for _ in range(times):
        with locked(path):
            number = int(path.read_text())
            time.sleep(hold)
            path.write_text(str(number + 1))


def test_processes_and_threads_change_a_file_one_at_a_time(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=count, args=(path, 20, 0.001)) for _ in range(3)]
    for worker in workers:
        worker.start()
    threads = [threading.Thread(target=count, args=(path, 20, 0.001)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for worker in [*workers, *threads]:
        worker.join()
    assert path.read_text() == "100"
    assert [*tmp_path.iterdir()] == [path]


def test_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "folder" / "file"
    code = f"""
import os, signal
from kanlib.training.files import locked
with locked({str(path)!r}):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len([*path.parent.iterdir()]) == 1
    with locked(path):
        pass
    assert [*path.parent.iterdir()] == []


def test_waiting_is_told_and_the_folder_may_go_meanwhile(tmp_path, capfd):
    path = tmp_path / "folder" / "file"
    entered = threading.Event()

    def wait():
        with locked(path, waiting="another has it: waiting"):
            entered.set()

    with locked(path):
        thread = threading.Thread(target=wait)
        thread.start()
        deadline = time.monotonic() + 60
        while not (told := capfd.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert told == "another has it: waiting\n"
        assert not entered.is_set()
        for file in path.parent.iterdir():
            file.unlink()
        path.parent.rmdir()
    thread.join()
    assert entered.is_set()
    assert [*path.parent.iterdir()] == []


def test_error_in_a_locked_context_frees_the_lock_and_is_the_callers(tmp_path):
    with pytest.raises(KeyError, match="mine"), locked(tmp_path / "file"):
        raise KeyError("mine")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("kind", ["module", "file system"])
def test_missing_locks_are_told_and_files_are_written(kind, tmp_path, monkeypatch):
    path = tmp_path / "file"
    if kind == "module":
        monkeypatch.setattr(files, "fcntl", None)
    else:

        def refuse(*_):
            raise OSError(37, "No locks available")

        monkeypatch.setattr(files.fcntl, "flock", refuse)
    message = re.escape(f"files in {tmp_path} cannot be locked: let one process at a time write")
    with pytest.warns(RuntimeWarning, match=message), locked(path):
        write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [*tmp_path.iterdir()] == [path]


def test_module_needs_no_locks_to_be_imported():
    code = (
        "import sys; sys.modules['fcntl'] = None; import kanlib.training.files as f; "
        "assert not f.fcntl"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
