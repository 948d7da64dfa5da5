"""The names of a package, each looked up in its module when it is first used: what nobody asks for is not imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def names_of(package: str, home_of: Mapping[str, str], given: dict[str, object]) -> Callable[[str], object]:
    """The `__getattr__` of a package: `home_of` has the module of each name, and `given` (its globals) keeps it."""

    def looked_up(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415  # only when a name is first used

        given[name] = getattr(import_module(home_of[name]), name)
        return given[name]

    return looked_up
