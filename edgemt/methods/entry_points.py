"""Methods of other packages, which name them in their `pyproject.toml`:

    [project.entry-points."edgemt.methods"]
    my_method = "my_package.my_module:METHOD"

METHOD is a value of a class of Method, or such a class, made without arguments. A package's code runs only when a
method of that name is asked for, listed or checked, never when edgemt is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from edgemt.errors import unknown_name_message
from edgemt.learning.method import Method

GROUP = "edgemt.methods"


def offered() -> tuple[EntryPoint, ...]:
    """Every entry point of the group, by name; nothing of any package is imported."""
    return tuple(sorted(entry_points(group=GROUP), key=lambda point: (point.name, package_of(point))))


def package_of(point: EntryPoint) -> str:
    """The installed distribution that an entry point belongs to."""
    return point.dist.name if point.dist is not None else point.value.partition(":")[0]


def find(name: str, *, own: Iterable[str]) -> Method:
    """A third party's method. Raises ValueError with the nearest of all names, or with what is wrong with this one."""
    points = offered()
    same = [point for point in points if point.name == name]
    if not same:
        raise ValueError(unknown_name_message("method", name, [*own, *(point.name for point in points)]))
    if len(same) > 1:
        packages = ", ".join(package_of(point) for point in same)
        raise ValueError(f"method {name!r}: several packages offer it ({packages}); uninstall all but one")
    return load(same[0])


def load(point: EntryPoint) -> Method:
    """What an entry point names. Raises ValueError, one line, for whatever goes wrong in the package."""
    where = f"method {point.name!r} of package {package_of(point)!r} ({point.value})"
    try:
        found = point.load()
        found = found() if isinstance(found, type) else found
    except Exception as error:  # whatever a package that is not ours raises
        raise ValueError(f"{where}: cannot be loaded ({type(error).__name__}: {error})") from error
    if not isinstance(found, Method):
        raise ValueError(f"{where}: is a {type(found).__name__}, not an edgemt.Method")
    return found
