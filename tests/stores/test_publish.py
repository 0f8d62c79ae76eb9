from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mammo_sae.errors import StoreError
from mammo_sae.stores import publish
from mammo_sae.stores.publish import atomic_file, create_store, open_store, verify_store


def _publish(folder, text="hello"):
    with create_store(
        folder / "a.store", folder / "a.json", kind="toy", describe={"n": 1}
    ) as aside:
        (aside / "part").mkdir()
        (aside / "part" / "data.txt").write_text(text)
    return folder / "a.json"


def test_a_published_store_opens_and_verifies(tmp_path):
    manifest = _publish(tmp_path)
    store = open_store(manifest, kind="toy")
    assert (store.path / "part" / "data.txt").read_text() == "hello"
    assert store.manifest["n"] == 1
    assert verify_store(manifest) == []


def test_the_same_content_gives_the_same_manifest(tmp_path):
    text = _publish(tmp_path).read_text()
    assert _publish(tmp_path).read_text() == text
    assert _publish(tmp_path, "another").read_text() != text


def test_a_failing_writer_leaves_nothing_behind(tmp_path):
    with (
        pytest.raises(RuntimeError),
        create_store(tmp_path / "a.store", tmp_path / "a.json", kind="toy") as aside,
    ):
        (aside / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_store_and_its_remains_are_swept_by_the_next(tmp_path):
    script = textwrap.dedent(
        f"""
        import os, pathlib, signal
        from mammo_sae.stores.publish import create_store
        folder = pathlib.Path({str(tmp_path)!r})
        with create_store(folder / "a.store", folder / "a.json", kind="toy") as aside:
            (aside / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert not (tmp_path / "a.store").exists()
    assert not (tmp_path / "a.json").exists()
    assert any(tmp_path.iterdir())
    _publish(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.store"]


def test_an_orphaned_writer_gives_way_to_its_successor(tmp_path):
    with (
        pytest.raises(StoreError, match="this one stops"),
        create_store(tmp_path / "a.store", tmp_path / "a.json", kind="toy") as aside,
    ):
        _publish(tmp_path, text="successor")
        aside.mkdir(exist_ok=True)
        (aside / "late").write_text("late")
    assert verify_store(tmp_path / "a.json") == []
    assert (tmp_path / "a.store" / "part" / "data.txt").read_text() == "successor"


def test_a_missing_file_is_named_when_the_store_is_opened(tmp_path):
    manifest = _publish(tmp_path)
    (tmp_path / "a.store" / "part" / "data.txt").unlink()
    with pytest.raises(StoreError, match=r"part/data\.txt is missing"):
        open_store(manifest, kind="toy")


def test_a_truncated_file_is_named_when_the_store_is_opened(tmp_path):
    manifest = _publish(tmp_path)
    os.truncate(tmp_path / "a.store" / "part" / "data.txt", 2)
    with pytest.raises(StoreError, match="has 2 bytes, not 5"):
        open_store(manifest, kind="toy")


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed", "gone"])
def test_a_damaged_store_is_made_again_as_advised(tmp_path, damage):
    manifest = _publish(tmp_path)
    file = tmp_path / "a.store" / "part" / "data.txt"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        os.truncate(file, 2)
    elif damage == "changed":
        file.write_text("hellO")
    else:
        manifest.unlink()
    with pytest.raises(StoreError) as refused:
        open_store(manifest, kind="toy")
    said = re.search(
        r"; (?:delete (\S+) and rerun|run the step that makes it)$", str(refused.value)
    )
    assert said, refused.value
    if said[1]:
        Path(said[1]).unlink()
    assert not manifest.exists()
    _publish(tmp_path)
    assert (open_store(manifest, kind="toy").path / "part" / "data.txt").read_text() == "hello"


def spoil(folder: Path, how: str) -> None:
    manifest, files = folder / "a.json", folder / "a.store" / publish.FILES
    if how == "another format":
        publish.write_json(manifest, {**publish.read_json(manifest), "format": 0})
    elif how == "another store":
        text = manifest.read_text()
        _publish(folder, text="other")
        manifest.write_text(text)
    elif how == "a file for a folder":
        shutil.rmtree(folder / "a.store" / "part")
        (folder / "a.store" / "part").write_text("hello")
    elif how == "incomplete":
        files.unlink()
    elif how == "changed":
        manifest.write_text(manifest.read_text().replace("toy", "joy"))
    else:
        manifest.write_text("{")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("another format", "is not a manifest of format .*; rebuild its store$"),
        ("another store", "is not the store its manifest describes; rebuild it$"),
        ("a file for a folder", r"can't be read .*; delete \S+a\.json and rerun$"),
        ("incomplete", "is missing or incomplete; rerun the step that makes it$"),
        ("changed", "does not match; delete it and run the step that makes it$"),
        ("no JSON", "is not readable JSON .*; delete it and rebuild$"),
    ],
)
def test_a_store_that_is_rebuilt_as_advised_is_opened(tmp_path, how, said):
    manifest = _publish(tmp_path)
    spoil(tmp_path, how)
    with pytest.raises(StoreError, match=said) as refused:
        open_store(manifest, kind="toy")
    deleted = re.search(r"^(\S+) .*delete it|delete (\S+) and", str(refused.value))
    if deleted:
        Path(deleted[1] or deleted[2]).unlink()
    assert _publish(tmp_path) == manifest
    assert (open_store(manifest, kind="toy").path / "part" / "data.txt").read_text() == "hello"


def test_a_flipped_byte_is_found_by_verification(tmp_path):
    manifest = _publish(tmp_path)
    (tmp_path / "a.store" / "part" / "data.txt").write_text("hellO")
    assert verify_store(manifest) == [
        f"{tmp_path / 'a.store'}: file part/data.txt was changed after it was written"
    ]


def test_a_swapped_store_is_not_taken_for_the_described_one(tmp_path):
    manifest = _publish(tmp_path)
    text = manifest.read_text()
    _publish(tmp_path, text="other")
    manifest.write_text(text)
    with pytest.raises(StoreError, match="not the store its manifest describes"):
        open_store(manifest, kind="toy")


def test_a_store_of_another_kind_is_refused(tmp_path):
    manifest = _publish(tmp_path)
    with pytest.raises(StoreError, match="describes 'toy', not 'images'"):
        open_store(manifest, kind="images")


def test_a_manifest_of_the_kind_that_the_message_names_is_opened(tmp_path):
    _publish(tmp_path)
    with create_store(tmp_path / "b.store", tmp_path / "b.json", kind="images") as aside:
        (aside / "data.txt").write_text("pixels")
    manifests = {"toy": tmp_path / "a.json", "images": tmp_path / "b.json"}
    with pytest.raises(StoreError) as refused:
        open_store(manifests["toy"], kind="images")
    kind = str(refused.value).partition("; give a manifest of ")[2]
    assert (open_store(manifests[kind], kind="images").path / "data.txt").read_text() == "pixels"


def test_a_store_given_for_its_manifest_is_not_to_be_deleted(tmp_path):
    manifest = _publish(tmp_path)
    with pytest.raises(StoreError) as refused:
        open_store(tmp_path / "a.store", kind="toy")
    said = str(refused.value)
    assert "delete" not in said
    name = re.search(r"is a folder; give its manifest, the file (\S+) beside it", said)[1]
    assert tmp_path / name == manifest
    open_store(tmp_path / name, kind="toy")


def test_a_missing_manifest_is_one_sentence(tmp_path):
    with pytest.raises(StoreError, match=r"nothing\.json is missing"):
        open_store(tmp_path / "nothing.json", kind="toy")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.txt"
    with pytest.raises(RuntimeError), atomic_file(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_file(path) as aside:
        aside.write_text("whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_store_that_can_not_be_deleted_is_replaced_all_the_same(tmp_path, monkeypatch):
    # A network file system gives EBUSY if a reader has a file of the old store open.
    manifest = _publish(tmp_path, "old")

    def busy(path, ignore_errors=False, **_):
        if not ignore_errors:
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    monkeypatch.setattr(publish.shutil, "rmtree", busy)
    _publish(tmp_path, "new")
    store = open_store(manifest, kind="toy")
    assert (store.path / "part" / "data.txt").read_text() == "new"
    assert verify_store(manifest) == []
    (left,) = tmp_path.glob(".a.store.*")
    assert (left / "part" / "data.txt").read_text() == "old"
    monkeypatch.undo()
    _publish(tmp_path, "newest")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.json", "a.store"]


def mounts(below: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [place for line in lines if (place := line.split()[4]).startswith(f"{below}/")]


@pytest.fixture
def occupy(tmp_path):
    """Return a function that mounts a file system on a folder, which can't be deleted then."""

    def mount(folder: Path) -> None:
        if shutil.which("mount") is None:
            pytest.skip("there is no mount")
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not permitted")

    yield mount
    for place in mounts(tmp_path) if sys.platform == "linux" else []:
        subprocess.run(["umount", place], check=True)


def test_a_store_that_is_busy_is_replaced_and_swept_by_the_next_writer(tmp_path, occupy):
    manifest = _publish(tmp_path, "old")
    occupy(tmp_path / "a.store" / "part")
    (tmp_path / "a.store" / "part" / "data.txt").write_text("old")
    assert verify_store(manifest) == []
    with pytest.raises(OSError, match="busy") as busy:
        (tmp_path / "a.store" / "part").rmdir()
    assert busy.value.errno == errno.EBUSY

    _publish(tmp_path, "new")
    assert (open_store(manifest, kind="toy").path / "part" / "data.txt").read_text() == "new"
    assert verify_store(manifest) == []
    (left,) = tmp_path.glob(".a.store.*")
    assert mounts(tmp_path) == [str(left / "part")]

    subprocess.run(["umount", str(left / "part")], check=True)
    _publish(tmp_path, "newer")
    assert {path.name for path in tmp_path.iterdir()} == {"a.store", "a.json"}


def test_a_reader_keeps_the_store_it_has_open_while_another_takes_its_place(tmp_path):
    manifest = _publish(tmp_path, "old")
    with (tmp_path / "a.store" / "part" / "data.txt").open() as stream:
        _publish(tmp_path, "new")
        assert stream.read() == "old"
    assert (open_store(manifest, kind="toy").path / "part" / "data.txt").read_text() == "new"


def test_a_changed_manifest_is_refused(tmp_path):
    manifest = _publish(tmp_path)
    manifest.write_text(manifest.read_text().replace('"n": 1', '"n": 2'))
    with pytest.raises(StoreError, match=r"a\.json was changed after it was written"):
        open_store(manifest, kind="toy")
