"""The command that holds a third party's methods to the contract."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional


@dataclass(frozen=True)
class Check:
    """Run the contract suite on the methods of an installed PACKAGE, or on one method by its name.

    The methods of a package are its entry points `edgemt.methods`. Each one runs in 2-D and 3-D, with 2 and 4 classes.
    Exit status 2 if a check fails.
    """

    package: Positional[str]


def check(command: Check) -> None:
    """Run the contract suite, and print each method with its checks. Raises ValueError if a check fails."""
    from edgemt.testing import check_package

    failed, shown = 0, ""
    for result in check_package.check(command.package):
        if result.method != shown:
            print(result.method)
            shown = result.method
        failed += bool(result.failure)
        print(f"  {'FAILED' if result.failure else 'passed'}  {result.check}", flush=True)
        if result.failure:
            print(f"          {result.failure}")
    if failed:
        raise ValueError(f"{command.package}: {failed} {'check' if failed == 1 else 'checks'} failed")
