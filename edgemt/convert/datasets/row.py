"""What a row of a data set states, and how the files of a folder are found by it.

Shapes: H W size of an image in pixels, X Y Z voxels of a volume.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from edgemt.convert.contract import Layout, Loaded
from edgemt.convert.names import safe_name
from edgemt.convert.text_files import read_text
from edgemt.io.file_types import is_stray, natural_sort_key, stem_of

Part = str  # "" (training), "val", "test", or SKIPPED
SKIPPED = "skipped"


@dataclass(frozen=True)
class Files:
    """Images of one part of a data set, and where their labels lie.

    `image`: regular expression of the end of a path, with `/`; its named groups, and `root` for what stands before it,
    are put into the templates; a template that begins with `**/` is searched in all folders. `labels`: alternatives,
    the first that exists counts. `together`: all of these are label files of an image. `each`: so is every file that
    fits this pattern, where <group> stands for a group. `channels`: further images of the case. `series`: images of
    one name are the slices of one volume. `optional`: images without a label are unlabelled, else an error.
    """

    image: str
    labels: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    each: str = ""
    name: str | Callable[[Mapping[str, str]], str] = "{name}"
    channels: tuple[str, ...] = ()
    part: Part = ""
    series: bool = False
    optional: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?P<root>(?:.*/)?)(?:{self.image})")


@dataclass(frozen=True)
class Found:
    """One case: its name (CLIP/FRAME for frames of videos), its files, its labels (none: unlabelled), its part."""

    name: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    part: Part


@dataclass(frozen=True)
class DataSet:
    """A row. `load` reads one case; its mask has the numbers of `classes`, 1 for the first.

    `needs` states what the folder contains, for errors and the page. `lists`: (part, template of a text file of names)
    for splits that are published as lists; a list that is not there is ignored. `recipe`: the command that trains on
    it, after `edgemt run`.
    """

    name: str
    title: str
    task: str
    modality: str
    content: str  # how many images
    terms: str
    home: str
    sources: tuple[str, ...]  # where the layout is described
    needs: str
    classes: tuple[str, ...]
    files: tuple[Files, ...]
    load: Callable[[Found, DataSet], Loaded]
    layout: Layout = "pairs"
    aliases: tuple[str, ...] = ()
    lists: tuple[tuple[Part, str], ...] = ()
    split: str = "none published"
    notes: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()  # their names, where a case has several images

    def refuse(self, source: Path) -> ValueError:
        """The error for a folder that is not this data set."""
        return ValueError(
            f"{source}: is not {self.title} as it is distributed; expected {self.needs}; get it at {self.home}, unpack "
            "it, and name its folder with --from"
        )

    def missing(self, path: Path, image: Path) -> ValueError:
        """The error for a file that belongs to an image and is not there."""
        return ValueError(f"{path}: is not there, {image.name} needs it; copy {self.title} again from {self.home}")

    def undefined(self, path: Path, what: object) -> ValueError:
        """The error for a label value that the data set does not define."""
        return ValueError(
            f"{path}: holds {what}, which is no label of {self.title}; is it the original file? see {self.home}"
        )


class Tree:
    """The files below a folder, as paths with `/`, hidden ones and those of editors left out."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.paths: list[str] = []
        seen = {os.path.realpath(source)}
        for folder, folders, files in os.walk(source, followlinks=True):
            folders[:] = sorted(name for name in folders if not is_stray(name))
            real = {name: os.path.realpath(os.path.join(folder, name)) for name in folders}
            folders[:] = [name for name in folders if real[name] not in seen]  # a link to a folder above ends here
            seen.update(real.values())
            base = Path(folder).relative_to(source).as_posix()
            prefix = "" if base == "." else f"{base}/"
            self.paths += [prefix + name for name in files if not is_stray(name)]
        self.paths.sort(key=natural_sort_key)
        self._known = set(self.paths)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self.paths:
            found.setdefault(path.rpartition("/")[2], []).append(path)
        return found

    def find(self, template: str, groups: Mapping[str, str]) -> Path | None:
        """The file that a template names; None without one."""
        if template.startswith("**/"):
            wanted = template[3:].format_map(groups)
            ends = (p for p in self._by_name.get(wanted.rpartition("/")[2], []) if f"/{p}".endswith(f"/{wanted}"))
            path = next(ends, None)
        else:
            path = groups["root"] + template.format_map(groups)
        return self.source / path if path is not None and path in self._known else None

    def every(self, pattern: str, groups: Mapping[str, str]) -> list[Path]:
        """All files whose path is `root` and then fits a regular expression with templates in <angle brackets>."""
        text = re.sub(r"<(\w+)>", lambda match: re.escape(groups[match[1]]), pattern)
        fits = re.compile(re.escape(groups["root"]) + text)
        return [self.source / p for p in self._below(groups["root"] + groups.get("folder", "")) if fits.fullmatch(p)]

    @cached_property
    def _folders(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in self.paths:
            at = path.find("/")
            while at >= 0:
                found.setdefault(path[: at + 1], []).append(path)
                at = path.find("/", at + 1)
        return found

    def _below(self, folder: str) -> Sequence[str]:
        return self._folders.get(folder, []) if folder else self.paths


def find_cases(row: DataSet, source: Path) -> list[Found]:
    """All cases of a folder, in the order of their paths.

    Raises ValueError, naming what was expected and the home page, for another folder and for missing labels.
    """
    if not source.is_dir():
        raise ValueError(f"from: no such folder {str(source)!r}; unpack {row.title} ({row.home}) and name its folder")
    tree, lists = Tree(source), _Lists(row)
    cases: dict[tuple[bool, str], Found] = {}
    for path in tree.paths:
        files, groups = _first_fit(row, path)
        if files is None or files.part == SKIPPED:
            continue
        found = _case(row, files, tree, path, groups, lists)
        key = (found.part == "test", found.name.casefold())
        before = cases.get(key)
        if before is not None and not files.series:
            raise ValueError(
                f"{found.images[0]}: a second image named {found.name!r}, beside {before.images[0]}; name the folder "
                f"of one copy of {row.title} with --from"
            )
        cases[key] = found if before is None else replace(before, images=before.images + found.images)
    if not any(found.labels for found in cases.values()):
        raise row.refuse(source)
    return list(cases.values())


def _first_fit(row: DataSet, path: str) -> tuple[Files | None, dict[str, str]]:
    for files in row.files:
        match = files.pattern.fullmatch(path)
        if match is not None:
            return files, match.groupdict(default="")
    return None, {}


def _case(row: DataSet, files: Files, tree: Tree, path: str, groups: dict[str, str], lists: _Lists) -> Found:
    image = tree.source / path

    def needed(template: str) -> Path:
        found = tree.find(template, groups)
        if found is None:
            wanted = template.removeprefix("**/").format_map(groups)
            raise row.missing(tree.source / (wanted if template.startswith("**/") else groups["root"] + wanted), image)
        return found

    images = (image, *(needed(template) for template in files.channels))
    labels = tree.every(files.each, groups) if files.each else []
    alternatives = (tree.find(template, groups) for template in files.labels)
    labels += [found for found in alternatives if found is not None][:1]
    if files.together and not (files.optional and tree.find(files.together[0], groups) is None):
        labels += [needed(template) for template in files.together]
    if not labels and not files.optional:
        if files.labels:
            needed(files.labels[0])
        raise row.missing(image.parent / "its label files", image)
    name = files.name.format_map(groups) if isinstance(files.name, str) else files.name(groups)
    clean = "/".join(safe_name(piece) for piece in name.split("/"))
    return Found(clean, images, tuple(labels), lists.part(tree, groups, name) or files.part)


class _Lists:
    """The lists of names beside the images, each read once."""

    def __init__(self, row: DataSet) -> None:
        self._row = row
        self._read: dict[str, list[tuple[Part, frozenset[str]]]] = {}

    def part(self, tree: Tree, groups: Mapping[str, str], name: str) -> Part:
        """The part on whose list a name is; empty without one."""
        root = groups["root"]
        if root not in self._read:
            found = [(part, tree.find(template, groups)) for part, template in self._row.lists]
            self._read[root] = [(part, _names(path)) for part, path in found if path is not None]
        return next((part for part, names in self._read[root] if name in names), "")


def _names(path: Path) -> frozenset[str]:
    lines = (line.strip() for line in read_text(path).splitlines())
    return frozenset(stem_of(line) for line in lines if line)
