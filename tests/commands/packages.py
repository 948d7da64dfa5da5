"""What is in a wheel and an sdist, held against what has to be there and what must not.

python tests/commands/packages.py dist/*
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_IN_A_WHEEL = ("tests/", "models/", "docs/", ".ci/")
IN_AN_SDIST = ("README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "models/digits_cnn.onnx", "tests/test_docs.py")


def names(archive: Path) -> set[str]:
    """The files of an archive; those of an sdist without the folder that all are in."""
    if archive.suffix == ".whl":
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as sdist:
        return {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}


def package() -> set[str]:
    """Every file of the package as it lies here: modules, py.typed, schemas."""
    files = (path for path in (ROOT / "bnfold").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def faults(archive: Path) -> list[str]:
    """One sentence for each thing that is wrong with an archive."""
    found = names(archive)
    wanted = package() | (set() if archive.suffix == ".whl" else set(IN_AN_SDIST))
    told = [f"{archive.name} lacks {name}" for name in sorted(wanted - found)]
    if archive.suffix == ".whl":
        told += [f"{archive.name} has {name}" for name in sorted(found) if name.startswith(NOT_IN_A_WHEEL)]
        told += [f"{archive.name} has {name}" for name in sorted(found - package()) if ".dist-info/" not in name]
    return told + [f"{archive.name} has {name}" for name in sorted(found) if name.endswith((".pyc", ".onnx.data"))]


def main(archives: list[Path]) -> int:
    """Print what is wrong; 1 if anything is, or if it is not one wheel and one sdist."""
    told = [fault for archive in archives for fault in faults(archive)]
    told += [] if {archive.suffix for archive in archives} == {".whl", ".gz"} else ["not a wheel and an sdist"]
    sys.stdout.write("".join(f"{fault}\n" for fault in told) or f"{len(package())} files of the package in each\n")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
