"""What `edgemt list` shows: every table of the house, a name and a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Rows = Iterator[tuple[str, str]]


def rows(what: str) -> list[tuple[str, str]]:
    """(name, line of description) of each entry of the table `what`."""
    return list(_TABLES[what]())


def _recipes() -> Rows:
    from edgemt.recipes import RECIPES

    for name, make in RECIPES.items():
        yield name, _first_line(make)


def _methods() -> Rows:
    from edgemt.methods import METHODS, entry_points
    from edgemt.methods.catalogue import about

    for name, method in METHODS.items():
        yield name, about(name, method)
    for point in entry_points.offered():
        package = entry_points.package_of(point)
        if point.name in METHODS:
            yield point.name, f"{package}: not reachable, the name is that of a method above"
            continue
        try:
            yield point.name, f"{package}: {about(point.name, entry_points.load(point))}"
        except ValueError as error:  # a broken package does not hide the others
            yield point.name, " ".join(str(error).split())


def _teachers() -> Rows:
    from teachers import TEACHERS

    for name, row in TEACHERS.items():
        yield name, row.about


def _students() -> Rows:
    from students import STUDENTS

    for name, row in STUDENTS.items():
        yield name, f"{row.encoder}: {row.about}"


def _encoders() -> Rows:
    import students
    from edgemt.io import encoder_weights

    for name, row in students.STUDENTS.items():
        size = f"{row.params:5.2f} M, {row.mmacs:5.0f} MMACs, {row.int8_time:4.2f}x INT8 time"
        yield name, f"{size}; weights: {encoder_weights.sources(row.encoder)}"


def _zoo() -> Rows:
    from edgemt.io import zoo_paths
    from edgemt.zoo import entry

    for name in zoo_paths.names():
        yield zoo_paths.PREFIX + name, entry.summary(entry.read_card(zoo_paths.HOME / name))


def _runtimes() -> Rows:
    from deploy.runtimes.registry import RUNTIMES, available

    works = available()
    for name, row in RUNTIMES.items():
        works_here, version = works[name]
        yield name, f"{row.about} ({version})" if works_here else f"not here: {version}"


def _datasets() -> Rows:
    from edgemt.convert.datasets.registry import DATASETS

    for name, row in DATASETS.items():
        yield name, f"{row.task}; {row.modality}; {row.content}; {row.terms}; {row.home}"


def _layouts() -> Rows:
    yield "pairs", "root/{train,val}/{images,masks}/* or root/{images,masks}/*: PNG, JPEG, TIFF, 8 or 16 bit"
    yield "clips", "root/{train,val}/{images,masks}/CLIP/*: frames of videos; a clip is a patient and is drawn as one"
    yield (
        "volumes",
        "root/{images,labels}/*.nii.gz with train.txt and val.txt: every slice a frame, patients kept together",
    )
    yield "decathlon", "Medical Segmentation Decathlon or nnU-Net: dataset.json, imagesTr, labelsTr, imagesTs"
    yield "h5", "NAME/*.h5 or NAME.h5 with image and label, as the mean-teacher repositories have them"
    yield "phantom", "synthetic frames with labels, nothing to download"
    yield "phantom_volumes", "synthetic volumes with labels, nothing to download"


def _corruptions() -> Rows:
    from edgemt.data.corruptions import BY_MODALITY, CORRUPTIONS

    for name, kind in CORRUPTIONS.items():
        modalities = ", ".join(modality for modality, names in BY_MODALITY.items() if name in names)
        yield name, f"{_first_line(kind.formula)} ({modalities})"


def _formats() -> Rows:
    from edgemt.convert.registry import FORMATS

    for name, row in FORMATS.items():
        both = row.write is not None or row.write_volume is not None
        yield name, f"{row.about} ({'import, export-labels' if both else 'import'})"


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


_TABLES: dict[str, Callable[[], Rows]] = {
    "recipes": _recipes,
    "methods": _methods,
    "teachers": _teachers,
    "students": _students,
    "encoders": _encoders,
    "runtimes": _runtimes,
    "datasets": _datasets,
    "layouts": _layouts,
    "corruptions": _corruptions,
    "formats": _formats,
    "zoo": _zoo,
}
