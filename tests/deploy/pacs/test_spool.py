"""The spool folder: what is in it after every kind of end."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.pacs import spool as spools
from deploy.pacs.series_state import SegFile
from deploy.pacs.spool import Spool, list_spool, open_spool
from edgemt.io.atomic import NoSpaceError

IDS = ("patient-4711", "1.2.3", "1.2.3.4")


def covered(spool: Spool, name: str, *, destinations: tuple[str, ...] = ("A@h:1",)) -> None:
    """As after a prediction."""
    images = tuple(path.name for path in spool.images(name))
    spool.put_seg(name, "1-1.dcm", b"seg")
    segs = (SegFile("1-1.dcm", images),)
    spool.update(name, lambda state: replace(state, covered=images, segs=segs, destinations=destinations, generation=1))


def test_a_series_is_received_then_predicted_then_sent_also_after_a_restart(tmp_path: Path) -> None:
    with open_spool(tmp_path / "spool") as spool:
        name = spool.store(IDS, "1.2.3.4.1", b"one").name
        spool.store(IDS, "1.2.3.4.2", b"two")
        assert spool.names("received") == [name] and len(spool.images(name)) == 2
    with open_spool(tmp_path / "spool") as spool:
        assert spool.names("received") == [name]
        covered(spool, name)
        assert spool.names("predicted") == [name] and spool.unsent("A@h:1") == [(name, "1-1.dcm")]
    with open_spool(tmp_path / "spool") as spool:
        assert spool.unsent("A@h:1") == [(name, "1-1.dcm")] and spool.seg(name, "1-1.dcm").read_bytes() == b"seg"
        spool.note_sent(name, "1-1.dcm", "A@h:1")
        assert spool.names("sent") == [name] and not spool.unsent("A@h:1")
    with open_spool(tmp_path / "spool") as spool:
        assert spool.names("sent") == [name]
        assert spool.store(IDS, "1.2.3.4.1", b"one") == (name, True, False)
        assert spool.names("sent") == [name]
        spool.store(IDS, "1.2.3.4.3", b"three")
        assert spool.names("received") == [name]


def test_another_content_of_one_image_takes_its_place(tmp_path: Path) -> None:
    with open_spool(tmp_path / "spool") as spool:
        name = spool.store(IDS, "1.2.3.4.1", b"one").name
        covered(spool, name)
        assert spool.store(IDS, "1.2.3.4.1", b"other") == (name, True, True)
        assert [path.read_bytes() for path in spool.images(name)] == [b"other"] and spool.names("received") == [name]


def test_series_of_two_patients_with_one_uid_are_two(tmp_path: Path) -> None:
    with open_spool(tmp_path / "spool") as spool:
        spool.store(IDS, "1.2.3.4.1", b"one")
        spool.store(("someone else", *IDS[1:]), "1.2.3.4.2", b"two")
        assert len(spool.names()) == 2


def test_what_a_kill_leaves_behind_is_put_right(tmp_path: Path) -> None:
    """A half-written file, two contents of one image, a segmentation that no state names."""
    with open_spool(tmp_path / "spool") as spool:
        name = spool.store(IDS, "1.2.3.4.1", b"one").name
        spool.put_seg(name, "1-1.dcm", b"unnamed")
        (image,) = spool.images(name)
    (tmp_path / "spool" / "incoming" / "ab.part").write_bytes(b"half")
    newer = image.with_name(f"{image.name.partition('-')[0]}-{'f' * 16}.dcm")
    newer.write_bytes(b"newer")
    os.utime(image, (1, 1))
    with open_spool(tmp_path / "spool") as spool:
        assert [path.read_bytes() for path in spool.images(name)] == [b"newer"] and not image.exists()
        assert not list((tmp_path / "spool" / "incoming").iterdir()) and spool.names("received") == [name]
        covered(spool, name)
        assert [path.name for path in (spool.seg(name, "x").parent).iterdir()] == ["1-1.dcm"]


def test_nothing_in_the_names_is_an_identifier(tmp_path: Path) -> None:
    names = []
    for folder in ("a", "b"):
        with open_spool(tmp_path / folder) as spool:
            names.append(spool.store(IDS, "1.2.3.4.1", b"one").name)
    assert names[0] != names[1]  # keyed by the spool: no table of hashes of UIDs reveals them
    text = " ".join(str(path) for path in tmp_path.rglob("*"))
    assert "4711" not in text and "1.2.3" not in text
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "a").rglob("*.dcm"))


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_spool(tmp_path / "spool") as spool:
        name = spool.store(IDS, "1.2.3.4.1", b"one").name
        covered(spool, name)
        with monkeypatch.context() as full:

            def no_room(handle: int) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            full.setattr(spools.os, "fsync", no_room)
            with pytest.raises(NoSpaceError, match="no space left"):
                spool.store(IDS, "1.2.3.4.2", b"two")
            with pytest.raises(NoSpaceError):
                spool.note_sent(name, "1-1.dcm", "A@h:1")
        assert spool.names("predicted") == [name] and len(spool.images(name)) == 1
        assert not list((tmp_path / "spool" / "incoming").iterdir())
        spool.store(IDS, "1.2.3.4.2", b"two")
        assert len(spool.images(name)) == 2


def test_what_was_sent_is_removed_after_a_while_and_what_was_not_stays(tmp_path: Path) -> None:
    with open_spool(tmp_path / "spool") as spool:
        done = spool.store(IDS, "1.2.3.4.1", b"one").name
        waiting = spool.store(("p", "1.2.3", "1.2.3.5"), "1.2.3.5.1", b"one").name
        covered(spool, done)
        covered(spool, waiting)
        spool.note_sent(done, "1-1.dcm", "A@h:1")
        assert spool.remove_sent(hours=1.0) == 0
        assert spool.remove_sent(hours=0.0) == 1 and spool.names() == [waiting]
        assert not (tmp_path / "spool" / "series" / done).exists() and not list(spool.folder.glob("incoming/*"))


def test_a_spool_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    with open_spool(folder) as spool:
        name = spool.store(IDS, "1.2.3.4.1", b"one").name
        with pytest.raises(ValueError, match="another process uses it"):
            Spool(folder)
        assert [(row.name, row.phase, row.images) for row in list_spool(folder)] == [(name, "received", 1)]
    (folder / "series" / name / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"state.json: is damaged; remove it"):
        Spool(folder)
    (folder / "series" / name / "state.json").unlink()
    (folder / "key").unlink()
    with pytest.raises(ValueError, match="key: is gone"):
        Spool(folder)
    with pytest.raises(ValueError, match="is no spool"):
        list_spool(folder)
