"""The command that holds a third party's methods to the contract."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional


@dataclass(frozen=True)
class Check:
    """Run the contract suite on the methods of an installed PACKAGE (entry points `edgemt.methods`), in 2-D and 3-D,
    with 2 and 4 classes; or on one method by its name. Exit status 2 where a promise is broken."""

    package: Positional[str]


def check(command: Check) -> None:
    from edgemt.testing import check_package

    broken, shown = 0, ""
    for verdict in check_package.check(command.package):
        if verdict.method != shown:
            print(verdict.method)
            shown = verdict.method
        broken += bool(verdict.broken)
        print(f"  {'BROKEN' if verdict.broken else 'kept  '}  {verdict.promise}", flush=True)
        if verdict.broken:
            print(f"          {verdict.broken}")
    if broken:
        raise ValueError(f"{command.package}: {broken} {'promise is' if broken == 1 else 'promises are'} broken")
