"""Options that were renamed: the old name stays valid, and stays in the keys and records of stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")

_OLD_NAMES: dict[type, dict[str, str]] = {}  # dataclass -> name of a field -> its old name


def renamed_fields(**old_names: str) -> Callable[[type[T]], type[T]]:
    """Decorate a dataclass whose fields were renamed: `@renamed_fields(float_layers="kept")` is new="old".

    The old name is still read: as an argument (a recipe of one's own, `dataclasses.replace`), as an attribute, and as
    a flag (`edgemt.pipeline.overrides`). Stage keys, cards and recipe.json have it (`old_names_of`), so that run
    folders of earlier versions still fit. Where an argument is given under both names the old one counts, because
    `replace` gives every field under its new name.
    """

    def decorate(cls: type[T]) -> type[T]:
        original: Callable[..., None] = cls.__init__

        @wraps(original)
        def init(self: T, *args: Any, **kwargs: Any) -> None:
            for new, old in old_names.items():
                if old in kwargs:
                    kwargs[new] = kwargs.pop(old)
            original(self, *args, **kwargs)

        cls.__init__ = init  # type: ignore[assignment]
        for new, old in old_names.items():
            setattr(cls, old, property(attrgetter(new), doc=f"The old name of `{new}`."))
        _OLD_NAMES[cls] = old_names
        return cls

    return decorate


def old_names_of(cls: type) -> dict[str, str]:
    """Name of a field -> its old name, for the renamed fields of a dataclass and of the classes it derives from."""
    return {new: old for base in reversed(cls.__mro__) for new, old in _OLD_NAMES.get(base, {}).items()}


def current_names(class_name: str) -> dict[str, str]:
    """Old name -> name of a field, for the class with this name; empty if none of its fields was renamed."""
    return {
        old: new for cls in _OLD_NAMES if cls.__name__ == class_name for new, old in old_names_of(cls).items()
    }  # fmt: skip


def old_paths(value: Any, old: str = "", new: str = "") -> dict[str, str]:
    """Dotted path with an old name -> the same with the current name, for a tree of dataclasses."""
    found: dict[str, str] = {}
    renamed = old_names_of(type(value))
    for f in fields(value):
        inner = getattr(value, f.name)
        for name in {f.name, renamed.get(f.name, f.name)}:
            if is_dataclass(inner):
                found |= old_paths(inner, f"{old}{name}.", f"{new}{f.name}.")
            elif f"{old}{name}" != f"{new}{f.name}":
                found[f"{old}{name}"] = f"{new}{f.name}"
    return found
