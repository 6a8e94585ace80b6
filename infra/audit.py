"""Looks the pinned versions up among known vulnerabilities, with pip-audit: `make audit`.

pip-audit calls a package "skipped" that the service does not know, and says "no known vulnerabilities" if all are
skipped, as behind a registry that only hands out packages. Here nothing passes for looked up that was not.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LISTS = (ROOT / "constraints.txt", ROOT / "infra" / "docker" / "servers.txt")
"""Of what is installed everywhere, and of what only the images have beyond that."""
SERVICES = ("pypi", "osv")
"""Who may know: the package index itself, and the database of open source vulnerabilities."""


def pins(*lists: Path) -> list[str]:
    """The lines that name a version: in the images' list not all do, some of its versions stand in the other."""
    return [line for path in lists for line in path.read_text().splitlines() if "==" in line]


def ask(service: str, *lists: Path) -> list[dict[str, Any]]:
    """What a service says of each package pinned in LISTS, or in those named; nothing where it does not answer."""
    with tempfile.NamedTemporaryFile("w", prefix="pins", suffix=".txt") as file:
        file.write("\n".join(pins(*(lists or LISTS))))
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--requirement", file.name, "--no-deps", "--disable-pip"]
        command += ["--progress-spinner", "off", "--format", "json", "--timeout", "10"]
        command += ["--vulnerability-service", service]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return []
    return found


def verdict(dependencies: list[dict[str, Any]]) -> tuple[int, int, list[str]]:
    """How many packages were looked up, how many were not, and a line for each vulnerability."""
    known = [package for package in dependencies if "skip_reason" not in package]
    lines = [
        f"{package['name']} {package['version']}: {problem['id']}"
        + (f", mended in {' or '.join(problem['fix_versions'])}" if problem["fix_versions"] else ", not mended yet")
        for package in known
        for problem in package["vulns"]
    ]
    return len(known), len(dependencies) - len(known), lines


def main() -> int:
    """Say what was found; status 1 where there is a vulnerability."""
    for service in SERVICES:
        known, unknown, problems = verdict(ask(service))
        if known:
            break
    else:
        print("warning: no advisory service answers here; nothing was looked up", file=sys.stderr)
        return 0
    print("\n".join(problems) or "no known vulnerability", f"({known} packages looked up at {service}, {unknown} not)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
