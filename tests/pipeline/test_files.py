"""Files are written atomically, also with concurrent writers, existing links, killed processes and a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime import files
from pipeline.runtime.files import all_files, whole_file, whole_folder, write_json
from tests.pipeline.conftest import ROOT


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_file_is_written_in_a_private_folder_with_an_unpredictable_name(tmp_path: Path) -> None:
    seen = set()
    for _ in range(2):
        with whole_file(tmp_path / "x.png") as temporary:
            assert temporary.suffix == ".png"  # by which libraries choose the format
            assert temporary.parent.parent == tmp_path  # on the same file system
            assert temporary.parent.stat().st_mode & 0o777 == 0o700
            temporary.write_text("new", encoding="utf-8")
            seen.add(temporary)
    assert len(seen) == 2
    assert hidden(tmp_path) == []


def test_files_and_folders_respect_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "x.json", {})
        with whole_folder(tmp_path / "folder") as folder:
            (folder / "y").write_text("", encoding="utf-8")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("x.json", "folder", "folder/y")]
    assert modes == [0o640, 0o750, 0o640]


def test_a_link_is_replaced_and_its_target_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x.json").write_text("keep", encoding="utf-8")
    (tmp_path / "x.json").symlink_to("other/x.json")
    (tmp_path / "folder").symlink_to("other")
    write_json(tmp_path / "x.json", 1)
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "y").write_text("", encoding="utf-8")
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == "1\n"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["y"]
    assert (tmp_path / "other/x.json").read_text(encoding="utf-8") == "keep"
    assert not any(path.is_symlink() for path in tmp_path.iterdir())


def test_concurrent_writers_do_not_interfere_and_the_last_one_wins(tmp_path: Path) -> None:
    for whole in (whole_file, whole_folder):
        target = tmp_path / whole.__name__
        with whole(target) as first, whole(target) as second:
            for place, text in ((first, "first"), (second, "second")):
                (place / "x" if place.is_dir() else place).write_text(text, encoding="utf-8")
        assert (target / "x" if target.is_dir() else target).read_text(encoding="utf-8") == "first"
    with all_files(tmp_path / "all") as first, all_files(tmp_path / "all") as second:
        (first / "x").write_text("first", encoding="utf-8")
        (second / "x").write_text("second", encoding="utf-8")
        (second / "y").write_text("second", encoding="utf-8")
    assert [path.read_text(encoding="utf-8") for path in sorted((tmp_path / "all").iterdir())] == ["first", "second"]
    assert hidden(tmp_path) == []


def test_an_exception_keeps_the_previous_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x", 1)
    with whole_folder(tmp_path / "folder") as folder:
        (folder / "y").write_text("old", encoding="utf-8")
    for whole in (whole_file, whole_folder, all_files):
        target = tmp_path / ("x" if whole is whole_file else "folder")
        with pytest.raises(KeyError), whole(target) as temporary:
            (temporary / "y" if temporary.is_dir() else temporary).write_text("new", encoding="utf-8")
            raise KeyError
    assert (tmp_path / "x").read_text(encoding="utf-8") == "1\n"
    assert (tmp_path / "folder/y").read_text(encoding="utf-8") == "old"
    assert hidden(tmp_path) == hidden(tmp_path / "folder") == []


def test_leftovers_of_killed_processes_are_removed_and_those_of_running_ones_are_kept(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pipeline.runtime.files import whole_file\n"
        f"with whole_file(Path({str(tmp_path / 'x')!r})) as temporary:\n"
        "    temporary.write_text('half', encoding='utf-8'); print(temporary, flush=True); time.sleep(600)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    with writer.stdout:
        left = Path(writer.stdout.readline().strip())
    write_json(tmp_path / "y", 1)
    assert left.read_text(encoding="utf-8") == "half"
    writer.kill()
    writer.wait()
    assert left.exists()
    (tmp_path / f"{files.PREFIX}link").symlink_to(ROOT / "pipeline")  # somebody else's, which points elsewhere
    write_json(tmp_path / "y", 2)
    assert not left.parent.exists()
    assert (ROOT / "pipeline").is_dir()
    assert not (tmp_path / "x").exists()


def test_errors_name_the_target_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    places = {
        tmp_path / "file/x": tmp_path / "file",  # not a folder
        tmp_path / "file/y/x": tmp_path / "file/y",
        Path("/proc/x.json"): Path("/proc/x.json"),  # not writable
        tmp_path: tmp_path,  # a folder
    }
    for place, named in places.items():
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            write_json(place, 1)
        assert caught.value.filename == str(named)
        assert files.PREFIX not in str(caught.value)
    for unnumbered in (OSError("24 requested and 16 written"), OSError(28, "No space left on device")):
        with pytest.raises(OSError, match=r"requested|No space") as caught, whole_file(tmp_path / "z"):
            raise unnumbered
        assert caught.value.filename == str(tmp_path / "z")
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "z"):
        (tmp_path / "missing").read_text(encoding="utf-8")  # other files are reported under their own name
    assert caught.value.filename == str(tmp_path / "missing")
