"""Atomic writing: the old file or the new one, whole, whatever happens in between."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from campaigns.kill_saves import calls_of_a_save, kill_everywhere
from tabwright.artifact.atomic_write import check_writable, replacing, write_atomically
from tests.new_process import finished_python


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("data", [b"", b"x", b"new" * 100_000])
@pytest.mark.parametrize("old", [None, b"", b"old"])
def test_writes_the_bytes_and_nothing_else(tmp_path: Path, data: bytes, old: bytes | None) -> None:
    target = tmp_path / "model"
    if old is not None:
        target.write_bytes(old)
    write_atomically(target, data)
    assert target.read_bytes() == data
    assert names(tmp_path) == ["model"]


def test_relative_paths_and_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_atomically("model", bytearray(b"ab"))
    write_atomically("model", memoryview(b"cd"))
    assert (tmp_path / "model").read_bytes() == b"cd"


def test_the_disk_has_the_bytes_before_the_name(tmp_path: Path) -> None:
    calls = calls_of_a_save(tmp_path, b"old" * 100, b"new" * 100)
    assert calls == [
        *("open", "write", "write", "write", "fchmod", "fsync", "close"),
        *("replace", "open", "fsync", "close"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("old", [None, b"old" * 1000])
def test_killed_before_and_after_every_call(tmp_path: Path, old: bytes | None) -> None:
    outcomes = list(kill_everywhere(tmp_path, old, b"new!" * 1000))
    assert len(outcomes) >= 18
    replaced = False
    for outcome in outcomes:
        replaced |= outcome.call == "replace" and outcome.when == "after"
        assert outcome.content == ("new" if replaced else "old"), outcome
        assert outcome.leftovers <= (not replaced)
    # The folder is still good for saving.
    write_atomically(tmp_path / "model", b"again")
    assert (tmp_path / "model").read_bytes() == b"again"


@pytest.mark.parametrize("call", ["open", "write", "fchmod", "fsync", "close", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failing_call_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    target = tmp_path / "model"
    target.write_bytes(b"old")
    real = getattr(os, call)

    def failing(*arguments: Any, **named: Any) -> Any:
        if call == "close":
            real(*arguments, **named)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(OSError, match=r"cannot save: .*; nothing was changed.*model") as caught:
            write_atomically(target, b"new")
    assert caught.value.errno == code
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["model"]


def test_a_half_written_file_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    target.write_bytes(b"old")
    real = os.write
    written: list[int] = []

    def full_after_one(handle: int, part: Any) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(1)
        return real(handle, part[:10])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_after_one)
        with pytest.raises(OSError, match="cannot save: the disk is full; nothing was changed"):
            write_atomically(target, bytes(100))
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["model"]


def test_control_c_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(tmp_path / "model", b"new")
    assert names(tmp_path) == []


def test_an_unconfirmed_rename_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def failing(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="the new file is in place, but the disk did not confirm it"):
        write_atomically(tmp_path / "model", b"new")
    assert (tmp_path / "model").read_bytes() == b"new"


def test_file_systems_without_folder_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def unsupported(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", unsupported)
    write_atomically(tmp_path / "model", b"new")
    assert (tmp_path / "model").read_bytes() == b"new"


def test_a_real_limit_on_file_size(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.write_bytes(b"old")
    done = finished_python(
        """
        import resource, sys
        from tabwright.artifact.atomic_write import write_atomically
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        try:
            write_atomically(sys.argv[1], bytes(20_000))
        except OSError as error:
            print(error)
        """,
        str(target),
    )
    assert "cannot save: the file is larger than the limit for files here" in done.stdout
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["model"]


def test_a_real_read_only_folder() -> None:
    # In a process that is not root: root may write anywhere.
    done = finished_python(
        """
        import os, sys, tempfile
        from tabwright.artifact.atomic_write import write_atomically
        folder = tempfile.mkdtemp()
        target = os.path.join(folder, "model")
        with open(target, "wb") as file:
            file.write(b"old")
        os.chmod(folder, 0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            write_atomically(target, b"new")
        except PermissionError as error:
            print(error)
        if root:
            os.seteuid(0)
        os.chmod(folder, 0o755)
        assert os.listdir(folder) == ["model"]
        with open(target, "rb") as file:
            assert file.read() == b"old"
        os.unlink(target)
        os.rmdir(folder)
        """
    )
    assert done.returncode == 0, done.stderr
    assert (
        "cannot save: writing in this folder is not permitted; nothing was changed" in done.stdout
    )


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cannot save: the folder does not exist: create"):
        write_atomically(tmp_path / "no" / "model", b"new")


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="cannot save: a part of its path is no folder"):
        write_atomically(tmp_path / "file" / "model", b"new")


def test_target_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="cannot save: it is a folder: name a file in it"):
        write_atomically(tmp_path, b"new")


def test_target_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="cannot save: it is no regular file"):
        write_atomically(tmp_path / "pipe", b"new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_symbolic_link_stays(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "1").write_bytes(b"old")
    (tmp_path / "model").symlink_to("versions/1")
    write_atomically(tmp_path / "model", b"new")
    assert (tmp_path / "model").is_symlink()
    assert (tmp_path / "versions" / "1").read_bytes() == b"new"
    assert names(tmp_path / "versions") == ["1"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions_stay(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "model"
    target.write_bytes(b"old")
    target.chmod(mode)
    write_atomically(target, b"new")
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "model", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o640


def test_bytes_for_a_private_file_are_never_public(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.write_bytes(b"old")
    target.chmod(0o600)
    seen: list[int] = []
    real = os.write

    def watching(handle: int, part: Any) -> int:
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return real(handle, part)

    monkeypatch.setattr(os, "write", watching)
    write_atomically(target, b"new")
    assert seen == [0o600]


def test_a_planted_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    monkeypatch.setattr(os, "urandom", lambda n: bytes(n))
    (tmp_path / f".tabwright-{'00' * 8}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError, match="cannot save"):
        write_atomically(tmp_path / "model", b"new")
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("old", [None, b"old"])
def test_pieces_take_the_name_when_all_are_written(tmp_path: Path, old: bytes | None) -> None:
    target = tmp_path / "table"
    if old is not None:
        target.write_bytes(old)
        target.chmod(0o640)
    with replacing(target) as temporary:
        with open(temporary, "wb") as file:
            file.write(b"one")
            file.write(b"two")
        assert target.exists() == (old is not None)
        assert os.path.dirname(temporary) == str(tmp_path)
    assert target.read_bytes() == b"onetwo"
    assert names(tmp_path) == ["table"]
    if old is not None:
        assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_pieces_that_end_early_leave_the_old_file(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "table"
    target.write_bytes(b"old")

    def write() -> None:
        with replacing(target) as temporary:
            Path(temporary).write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["table"]


def test_pieces_whose_rename_fails_leave_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    target = tmp_path / "table"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda handle: None)

    def write() -> None:
        with replacing(target) as temporary:
            Path(temporary).write_bytes(b"new")
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="the disk is full; nothing was changed"):
        write()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["table"]


def test_writable_paths_are_told_from_others(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"old")
    check_writable(old)
    check_writable(tmp_path / "new")
    assert names(tmp_path) == ["old"]
    assert old.read_bytes() == b"old"
    with pytest.raises(FileNotFoundError, match="the folder does not exist: create it first"):
        check_writable(tmp_path / "nowhere" / "file")
    with pytest.raises(IsADirectoryError, match="it is a folder: name a file in it"):
        check_writable(tmp_path)
