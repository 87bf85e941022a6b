"""Files are whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from axoloci.errors import InputError
from axoloci.io.files import check_outputs, sha256, unreadable, whole_file, write_json, write_text


def test_whole_file__a_failure_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def broken() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_check_outputs__refuses_one_file_twice_and_folders_that_are_none(tmp_path: Path) -> None:
    a, b = tmp_path / "new" / "a.tsv", tmp_path / "b.tsv"
    check_outputs({"--out": a, "--history": b, "--checkpoint": None})
    assert not a.parent.exists()
    again = tmp_path / "new" / ".." / "new" / "a.tsv"
    with pytest.raises(InputError, match=r"--out and --log are both .*a.tsv; give each a file"):
        check_outputs({"--out": a, "--log": again})
    b.write_text("x")
    with pytest.raises(InputError, match=r"--out .*: .*b.tsv is no folder that can be written to"):
        check_outputs({"--out": b / "c" / "d.tsv"})


def test_whole_file__keeps_the_suffixes(tmp_path: Path) -> None:
    with whole_file(tmp_path / "new folder" / "map.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"x")
    assert (tmp_path / "new folder" / "map.nii.gz").read_bytes() == b"x"


def test_whole_file__an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)  # the temporary name is longer than names may be
    with pytest.raises(OSError, match="too long") as error:
        write_text(path, "x")
    assert error.value.filename == str(path)


def test_whole_file__a_full_disk_names_the_file(tmp_path: Path) -> None:
    """Arrow's errors do not say of which file they are."""
    with pytest.raises(OSError, match="room") as error, whole_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "no room")
    assert error.value.filename == str(tmp_path / "a")
    with pytest.raises(OSError, match="else") as error, whole_file(tmp_path / "a"):
        raise OSError(errno.EACCES, "something else")
    assert error.value.filename is None


def test_write_json__refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_sha256__of_known_bytes(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_unreadable__says_why_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    assert unreadable(path) == f"{path}: no such file"
    path.write_text("x")
    assert unreadable(path) == ""
    assert unreadable(tmp_path) == f"{tmp_path}: is a folder, not a file"
    (tmp_path / "l").symlink_to("gone")
    why = unreadable(tmp_path / "l")
    assert "l: a link to gone, which is not there; in a DataLad data set fetch it by: " in why
    assert why.endswith(f"datalad get {tmp_path}/l")
    monkeypatch.setattr("os.access", lambda *_: False)
    assert unreadable(path) == f"{path}: no permission to read it"
