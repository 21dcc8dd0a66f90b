"""Methods of other packages, which name them in their `pyproject.toml`.

    [project.entry-points."edgemt.methods"]
    my_method = "my_package.my_module:METHOD"

METHOD is an instance of a subclass of Method, or such a class that takes no arguments. A package is imported only when
its method is requested, listed or checked, never when edgemt is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from edgemt.errors import unknown_name_message
from edgemt.learning.method import Method

GROUP = "edgemt.methods"


def offered() -> tuple[EntryPoint, ...]:
    """Every entry point of the group, sorted by name; no package is imported."""
    return tuple(sorted(entry_points(group=GROUP), key=lambda point: (point.name, package_of(point))))


def package_of(point: EntryPoint) -> str:
    """The installed distribution that an entry point belongs to."""
    return point.dist.name if point.dist is not None else point.value.partition(":")[0]


def find(name: str, *, own: Iterable[str]) -> Method:
    """The method of another package. Raises ValueError with the closest known name, or with the reason."""
    points = offered()
    same = [point for point in points if point.name == name]
    if not same:
        raise ValueError(unknown_name_message("method", name, [*own, *(point.name for point in points)]))
    if len(same) > 1:
        packages = ", ".join(package_of(point) for point in same)
        raise ValueError(f"method {name!r}: several packages offer it ({packages}); uninstall all but one")
    return load(same[0])


def load(point: EntryPoint) -> Method:
    """The method of an entry point. Raises ValueError of one line for any error of the package."""
    where = f"method {point.name!r} of package {package_of(point)!r} ({point.value})"
    try:
        method = point.load()
        method = method() if isinstance(method, type) else method
    except Exception as error:  # any error of a package that is not ours
        raise ValueError(f"{where}: cannot be loaded ({type(error).__name__}: {error})") from error
    if not isinstance(method, Method):
        raise ValueError(f"{where}: is a {type(method).__name__}, not an edgemt.Method")
    return method
