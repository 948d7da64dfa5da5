"""Plans of the models in ../shared/zoo, as short records that a refactoring must leave unchanged.

python tests/zoo/replay.py            prints which records differ from tests/zoo/plans.json
python tests/zoo/replay.py --record   writes them anew: read the difference before committing it
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import bnfold

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
ZOO = SHARED / "zoo"
RECORDS = Path(__file__).with_name("plans.json")


def fill(path: Path, target: Path) -> None:
    """Give a stripped model its seeded weights back."""
    subprocess.run([sys.executable, str(SHARED / "zoo.py"), "fill", str(path), str(target)], check=True)


def record(plan: bnfold.Plan) -> dict[str, object]:
    """The structure of a plan: counts, and a hash over every site, home, path and code. The numbers are not in it."""
    moves = [[str(m.site), [str(a.home) for a in m.arrivals], [str(s) for s in m.path]] for m in plan.moves]
    refusals = [[str(r.site), r.reason.code, str(r.blamed)] for r in plan.refusals]
    digest = hashlib.sha256(json.dumps([moves, refusals]).encode()).hexdigest()
    left = Counter(refusal.reason.code for refusal in plan.refusals)
    return {"folded": len(moves), "left": dict(sorted(left.items())), "structure": digest[:16]}


def records() -> dict[str, dict[str, object]]:
    """The records of all models, by name."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(ZOO.glob("*.onnx")):
            target = Path(folder) / path.name
            fill(path, target)
            found[path.stem] = record(bnfold.plan(target))
            target.unlink()
    return found


def main() -> int:
    """Compare with what is recorded, or record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    now = records()
    if parser.parse_args().record:
        RECORDS.write_text(json.dumps(now, indent=1) + "\n")
        return 0
    known = json.loads(RECORDS.read_text())
    differing = [name for name in sorted(now.keys() | known.keys()) if now.get(name) != known.get(name)]
    sys.stdout.write("".join(f"{name}: {known.get(name)} -> {now.get(name)}\n" for name in differing))
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
