"""Check that requirements.txt has one exact version of each package, which is the installed one.

python scripts/pins.py          # exit 1 if a pin is missing, loose, out of bounds or not installed
python scripts/pins.py FILE     # the same of another file
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"


def faults(pins: list[Requirement], declared: list[Requirement]) -> list[str]:
    """Return what is wrong with the pins of the declared packages, a line each."""
    loose = [pin for pin in pins if not _is_exact(pin)]
    found = [f"{pin} is no exact version" for pin in loose]
    exact = [pin for pin in pins if pin not in loose]
    for need in declared:
        name = canonicalize_name(need.name)
        own = [pin for pin in exact if canonicalize_name(pin.name) == name]
        if not own and need.name != "kanlib":
            found.append(f"{need.name} has no exact version")
        found += [f"{pin} is not {need}" for pin in own if not need.specifier.contains(_only(pin))]
    for pin in exact:
        if (pin.marker is None or pin.marker.evaluate()) and _installed(pin.name) != _only(pin):
            found.append(f"{pin} is not installed, but {_installed(pin.name)}: run make")
    return found


def _is_exact(pin: Requirement) -> bool:
    return pin.url is None and [each.operator for each in pin.specifier] == ["=="]


def _only(pin: Requirement) -> str:
    return next(iter(pin.specifier)).version


def _installed(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "no version"


def main(arguments: list[str]) -> int:
    """Print the faults of a file; return 1 if there are any."""
    text = Path(*arguments[:1] or [REQUIREMENTS]).read_text(encoding="utf-8")
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    pins = [Requirement(line) for line in lines if line]
    found = faults(pins, [Requirement(line) for line in requires("kanlib") or []])
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
