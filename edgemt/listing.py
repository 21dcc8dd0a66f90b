"""What `edgemt list` shows: every table of the house, a name and a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Rows = Iterator[tuple[str, str]]


def rows(what: str) -> list[tuple[str, str]]:
    return list(_TABLES[what]())


def _recipes() -> Rows:
    from edgemt.recipes import RECIPES

    for name, make in RECIPES.items():
        yield name, _first_line(make)


def _methods() -> Rows:
    from edgemt.methods import METHODS
    from edgemt.methods.mean_teacher import MeanTeacher

    for name, method in METHODS.items():
        if type(method) is not MeanTeacher:
            yield name, f"{type(method).__name__}: {_first_line(type(method))}"
            continue
        mixed = "" if method.mix == "none" else f" Student's images are mixed ({method.mix})."
        yield name, f"MeanTeacher: {_first_line(type(method.target))}{mixed}"  # the target tells them apart


def _teachers() -> Rows:
    from teachers import TEACHERS

    for name, row in TEACHERS.items():
        yield name, row.about


def _students() -> Rows:
    from students import STUDENTS

    for name, row in STUDENTS.items():
        yield name, f"{row.encoder}: {row.about}"


def _zoo() -> Rows:
    from edgemt.zoo import shelf

    for name in shelf.names():
        yield shelf.PREFIX + name, shelf.about(shelf.read_card(shelf.HOME / name))


def _runtimes() -> Rows:
    from deploy.runtime import RUNTIMES, available

    works = available()
    for name, row in RUNTIMES.items():
        fine, said = works[name]
        yield name, f"{row.about} ({said})" if fine else f"not here: {said}"


def _datasets() -> Rows:
    yield "pairs", "root/{train,val}/{images,masks}/* or root/{images,masks}/*: PNG, JPEG, TIFF, 8 or 16 bit"
    yield (
        "volumes",
        "root/{images,labels}/*.nii.gz with train.txt and val.txt: every slice a frame, patients kept together",
    )
    yield "decathlon", "Medical Segmentation Decathlon or nnU-Net: dataset.json, imagesTr, labelsTr, imagesTs"
    yield "h5", "NAME/*.h5 or NAME.h5 with image and label, as the mean-teacher repositories have them"
    yield "phantom", "synthetic frames with labels, nothing to download"
    yield "phantom_volumes", "synthetic volumes with labels, nothing to download"


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


_TABLES: dict[str, Callable[[], Rows]] = {
    "recipes": _recipes,
    "methods": _methods,
    "teachers": _teachers,
    "students": _students,
    "runtimes": _runtimes,
    "datasets": _datasets,
    "zoo": _zoo,
}
