"""Test that a folder is decoded once, and that changed files are decoded again."""

import os
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_resnet import data
from keras_resnet.data import decoding, scan


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write two classes of five images, and forget earlier scans. Files count as old at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(scan, "SETTLED", 0.0)
    for split in ("train", "test"):
        for number in range(5):
            for label in "ab":
                path = tmp_path / "pets" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                color = (ord(label), number, len(split))
                Image.new("RGB", (12, 10 + number), color).save(path)
    return tmp_path / "pets"


@pytest.fixture
def decoded(monkeypatch):
    """Record the files that are decoded, by their path below the folder of the data.

    Pillow decodes them, because building TensorFlow's graph takes a second each time.
    """
    names = []

    def measures(files):
        for file in files:
            names.append("/".join(Path(file).parts[-3:]))
            try:
                with Image.open(file) as image:
                    image.load()
                    yield [image.height, image.width, zlib.crc32(Path(file).read_bytes())]
            except OSError:
                yield [0]

    monkeypatch.setattr(scan, "_measures", measures)
    return names


def facts(dataset):
    splits = (dataset.train, dataset.test)
    return [
        dataset.shorter_side,
        *(split.paths.tolist() for split in splits),
        *(split.fingerprints.tolist() for split in splits),
    ]


def test_the_second_start_decodes_nothing(folder, decoded):
    first = facts(data.load(str(folder)))
    assert len(decoded) == 20
    decoded.clear()
    assert facts(data.load(str(folder))) == first
    assert decoded == []


def test_remembered_facts_are_those_of_the_decoder(folder):
    first = facts(data.load(str(folder)))
    assert remembered().stat().st_size > 20 * 5 * 8
    assert facts(data.load(str(folder))) == first


@pytest.mark.slow
def test_the_second_start_may_be_of_another_process_and_path(folder, decoded, monkeypatch):
    code = "import sys; from keras_resnet import data; data.load(sys.argv[1])"
    program = f"from keras_resnet.data import scan; scan.SETTLED = 0.0; {code}"
    subprocess.run([sys.executable, "-P", "-c", program, str(folder)], check=True)
    monkeypatch.chdir(folder)
    data.load(".")
    assert decoded == []


def test_changed_new_and_renamed_files_are_decoded(folder, decoded):
    data.load(str(folder))
    decoded.clear()
    changed = folder / "train" / "a" / "0.png"
    before = changed.stat()
    content = bytearray(changed.read_bytes())
    Image.new("RGB", (12, 10), (99, 0, 5)).save(changed)
    assert changed.stat().st_size == len(content), "a change that the size does not show"
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` does
    Image.new("RGB", (9, 9)).save(folder / "test" / "b" / "new.png")
    (folder / "test" / "a" / "1.png").rename(folder / "test" / "a" / "one.png")
    (folder / "test" / "a" / "2.png").unlink()
    again = data.load(str(folder))
    assert sorted(decoded) == ["test/a/one.png", "test/b/new.png", "train/a/0.png"]
    assert len(again.test) == 10
    decoded.clear()
    data.load(str(folder))
    assert decoded == []


def test_young_files_are_decoded_again(folder, decoded, monkeypatch):
    """A file that is written twice within a step of the file system's clock has one time."""
    monkeypatch.setattr(scan, "SETTLED", 3600.0)
    for _ in range(2):
        data.load(str(folder))
    assert len(decoded) == 40


def test_broken_files_are_decoded_again(folder, decoded):
    """The reason may have been a storage that failed for a moment."""
    path = folder / "train" / "a" / "0.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    messages = []
    for _ in range(2):
        with pytest.raises(ValueError, match="1 of 20 files") as raised:
            data.load(str(folder))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert len(decoded) == 21 and decoded[-1] == "train/a/0.png"
    decoded.clear()
    path.write_bytes(whole)
    for _ in range(2):
        data.load(str(folder))
    assert decoded == ["train/a/0.png"]


def test_a_failure_of_the_storage_is_forgotten(folder, decoded, monkeypatch):
    """The file itself does not change."""
    path = str(folder / "train" / "a" / "0.png")

    def failing(files):
        return ([0] if file == path else row for file, row in zip(files, works(files), strict=True))

    works = scan._measures
    with monkeypatch.context() as patch:
        patch.setattr(scan, "_measures", failing)
        with pytest.raises(ValueError, match="1 of 20 files"):
            data.load(str(folder))
    assert len(data.load(str(folder)).train) == 10


def test_other_bounds_look_at_all_files_again(folder, decoded, monkeypatch):
    data.load(str(folder))
    decoded.clear()
    monkeypatch.setattr(decoding, "MAX_PIXELS", 2**25)
    data.load(str(folder))
    assert len(decoded) == 20


def remembered():
    (path,) = scan.remembered_scans().iterdir()
    return path


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(500)),
        lambda path: np.savez(path, version=np.zeros(3, np.int64)),
        lambda path: rewritten(path, lambda rows: rows[:, :4]),
        lambda path: rewritten(path, lambda rows: rows.astype(np.float64)),
        lambda path: rewritten(path, lambda rows: -rows),
        lambda path: rewritten(path, lambda rows: rows[:0]),
        lambda path: rewritten(path, lambda rows: rows.astype(object)),
    ],
)
def test_a_damaged_scan_is_made_again(folder, decoded, damage):
    first = facts(data.load(str(folder)))
    damage(remembered())
    decoded.clear()
    assert facts(data.load(str(folder))) == first and len(decoded) == 20
    decoded.clear()
    data.load(str(folder))
    assert decoded == []


def rewritten(path, change):
    with np.load(path) as archive:
        version, rows = archive["version"], archive["rows"]
    np.savez(path, version=version, rows=change(rows))


def test_without_a_folder_for_caches_nothing_is_remembered(folder, decoded, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        data.load(str(folder))
    assert len(decoded) == 40


def on_hosts(count, load):
    """Call `load` with each of `count` hosts, which are threads; return the results by rank."""
    given, everyone = {}, threading.Barrier(count)

    def host(index):
        def total(numbers):
            given[index] = numbers
            everyone.wait()
            found = sum(given.values())
            everyone.wait()
            return found

        return load(scan.Hosts(index, count, total))

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(host, range(count)))


@pytest.mark.parametrize("count", [2, 3])
def test_hosts_share_the_first_scan(folder, decoded, count):
    alone = facts(data.load(str(folder)))
    remembered().unlink()
    decoded.clear()
    found = on_hosts(count, lambda hosts: facts(data.load(str(folder), hosts=hosts)))
    assert found == [alone] * count
    assert len(decoded) == 20 and len(set(decoded)) == 20
    decoded.clear()
    on_hosts(count, lambda hosts: data.load(str(folder), hosts=hosts))
    assert decoded == []


def test_what_one_host_has_forgotten_is_decoded_again_by_all(folder, decoded, monkeypatch):
    caches = threading.local()
    monkeypatch.setattr(scan, "remembered_scans", lambda: folder.parent / caches.of)

    def load(hosts):
        caches.of = str(hosts.index)
        return facts(data.load(str(folder), hosts=hosts))

    first = on_hosts(2, load)
    (folder.parent / "1").rename(folder.parent / "gone")
    Image.new("RGB", (12, 13), (99, 0, 5)).save(folder / "train" / "a" / "3.png")
    decoded.clear()
    again = on_hosts(2, load)
    assert len(decoded) == 20 and again[0] == again[1] != first[0]
    decoded.clear()
    assert on_hosts(2, load) == again and decoded == []


def test_every_host_names_the_broken_files(folder, decoded):
    broken = [folder / "train" / label / "1.png" for label in "ab"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:40])

    def load(hosts):
        with pytest.raises(ValueError, match="2 of 20 files") as raised:
            data.load(str(folder), hosts=hosts)
        return str(raised.value)

    first, second = on_hosts(2, load)
    assert first == second and all(str(path) in first for path in broken)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"another size")])
def test_hosts_with_different_files_are_refused(folder, decoded, tmp_path, change):
    """On local disks, copying to one of them may have been interrupted."""
    copy = tmp_path / "copy" / "pets"
    for path in folder.rglob("*.png"):
        target = copy / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    change(copy / "train" / "b" / "2.png")

    def load(hosts):
        with pytest.raises(ValueError, match="different files on different hosts"):
            data.load(str(copy if hosts.index else folder), hosts=hosts)

    on_hosts(3, load)
    assert decoded == []


def test_scans_hold_no_names_of_files(folder):
    """A cache outlives the data; hashes of names and contents say little about it."""
    data.load(str(folder))
    content = remembered().read_bytes()
    assert b"png" not in content and b"pets" not in content
