"""Print the lowest versions that pyproject.toml allows, as requirements for `make test-lowest`.

Those of the library and of its kernels, and of SciPy, with which tests compare. What only runs
the tests has the versions of requirements.txt.
"""

from __future__ import annotations

from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
RUNNERS = {"hypothesis", "packaging", "pytest", "pytest-xdist"}


def lowest() -> list[str]:
    """Return the requirements, one a line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    scipy = [line for line in extras["test"] if line.startswith("scipy")]
    bounds = [*project["dependencies"], *extras["fast"], *scipy]
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    runners = [line for line in pins if line.split("==")[0] in RUNNERS]
    return [line.replace(">=", "==") for line in bounds] + runners


if __name__ == "__main__":
    print("\n".join(lowest()))
