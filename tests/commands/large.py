"""What models with gigabytes of external data cost: seconds beside those of a plain copy, and peaks of memory.

    python tests/commands/large.py [--gib 2.5 4.5] [--dense] [--folder TMP]

For each size, a Conv and BatchNormalization beside a table of that many GiB, of which a few rows are read at both
ends; the weights lie behind it in the same file, beyond 2 GiB and beyond 4. The table is zeros but for those rows (a
file that takes no room), or, with --dense, numbers. Then, each as a process: `bnfold plan`, `fold` at each level of
verification, `verify` of model and fold, of the model and itself, and of the model and one with one weight changed
(which must differ). Seconds are also given in units of copying the data once, block by block with fsync; peaks are
those of bnfold and of the process in which it runs onnxruntime, whose mapped files count only under "mapped".
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, parser

WIDTH = 256
ROWS = 4  # at either end of the table, that are read
BLOCK = 4 << 20
TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,8,8,8] x, int64[4] i) => (float[N,4] y) {
    c = Conv<pads = [1,1,1,1]>(x, w)
    n = BatchNormalization(c, gamma, beta, mean, var)
    p = GlobalAveragePool(n)
    f = Flatten(p)
    first = Mod(i, four)
    last = Sub(end, first)
    rows = Concat<axis = 0>(first, last)
    e = Gather(table, rows)
    t = MatMul(e, tail)
    turned = Transpose<perm = [1,0]>(t)
    m = MatMul(f, turned)
    y = Slice(m, zero, four, one)
}"""


def made(folder: Path, gib: float, *, dense: bool) -> Path:
    """The model, its data in one file."""
    random = np.random.default_rng(0)
    rows = int(gib * (1 << 30)) // (4 * WIDTH)
    model = parser.parse_model(TEXT)
    numbers = {"four": [4], "end": [rows - 1], "zero": [0], "one": [1]}
    for name, value in numbers.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    for name in ("gamma", "beta", "mean", "var"):
        model.graph.initializer.append(numpy_helper.from_array(random.uniform(0.5, 1.5, 8).astype(np.float32), name))
    weights = {"w": random.standard_normal((8, 8, 3, 3)) / 8, "tail": random.standard_normal((WIDTH, 8)) / 16}
    with (folder / "model.data").open("wb") as file:
        size = rows * WIDTH * 4
        for start in range(0, size, BLOCK) if dense else ():
            file.seek(start)
            file.write(random.standard_normal(min(BLOCK, size - start) // 4, np.float32).tobytes())
        for place in (0, size - ROWS * WIDTH * 4):
            file.seek(place)
            file.write(random.standard_normal((ROWS, WIDTH), np.float32).tobytes())
        model.graph.initializer.append(external("table", (rows, WIDTH), 0))
        for name, array in weights.items():
            start = file.tell() + -file.tell() % 4096
            file.seek(start)
            file.write(array.astype(np.float32).tobytes())
            model.graph.initializer.append(external(name, array.shape, start))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def external(name: str, dims: tuple[int, ...], offset: int) -> TensorProto:
    """A float tensor at a place in model.data."""
    tensor = TensorProto(name=name, data_type=1, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "model.data"), ("offset", offset), ("length", 4 * int(np.prod(dims)))):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def changed(path: Path) -> Path:
    """The same model with a part in a thousand added to one element of a weight, its data shared."""
    model = onnx.load(path, load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.name == "tail")
    onnx.external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
    array = numpy_helper.to_array(tensor).copy()
    array[0, 0] *= 1.001
    tensor.CopyFrom(numpy_helper.from_array(array, "tail"))
    onnx.save(model, path.with_name("changed.onnx"))
    return path.with_name("changed.onnx")


def copy(source: Path, target: Path) -> float:
    """Seconds that it takes to copy a file, block by block, zeros too."""
    began = time.perf_counter()
    with source.open("rb", buffering=0) as reading, target.open("wb", buffering=0) as writing:
        while block := reading.read(BLOCK):
            writing.write(block)
        os.fsync(writing.fileno())
    spent = time.perf_counter() - began
    target.unlink()
    return spent


@dataclass(slots=True)
class Peak:
    """MiB of memory at most: all that is resident, of it what is private, and what is mapped files."""

    resident: float = 0.0
    private: float = 0.0
    mapped: float = 0.0

    def look(self, pid: int) -> None:
        """Note the state of a process, if there is one."""
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        found = {name: int(rest.split()[0]) / 1024 for name, _, rest in (line.partition(":") for line in lines)
                 if name in {"VmHWM", "RssAnon", "RssFile"}}  # fmt: skip
        self.resident = max(self.resident, found.get("VmHWM", 0.0))
        self.private = max(self.private, found.get("RssAnon", 0.0))
        self.mapped = max(self.mapped, found.get("RssFile", 0.0))


@dataclass(slots=True)
class Watch:
    """Looks at a process and its children until it is told to stop."""

    pid: int
    parent: Peak = field(default_factory=Peak)
    child: Peak = field(default_factory=Peak)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Look fifty times a second."""
        while not self.stopped.wait(0.02):
            self.parent.look(self.pid)
            for entry in Path(f"/proc/{self.pid}/task").glob("*/children"):
                for pid in entry.read_text().split():
                    self.child.look(int(pid))


def measured(arguments: list[str], folder: Path, unit: float, expected: int = 0) -> None:
    """Run bnfold and print what it took; exits where the code is another than expected."""
    command = [sys.executable, *arguments]
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        watch = Watch(process.pid)
        thread = threading.Thread(target=watch.run)
        thread.start()
        out, _ = process.communicate()
        spent = time.perf_counter() - began
        watch.stopped.set()
        thread.join()
    parent, child = watch.parent, watch.child
    title = " ".join(arguments[2:]) if arguments[0] == "-m" else "(imports alone)"
    peaks = f"{parent.resident:6.0f}  {child.private:6.0f} {child.mapped:6.0f}"
    say(f"  {title:58} {spent:7.1f} s {spent / unit:6.2f}  {peaks}")
    if process.returncode != expected:
        raise SystemExit(f"exit code {process.returncode}, and {expected} was expected:\n{out.decode()}")


def main() -> int:
    """Measure each size and print a table for it."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--gib", type=float, nargs="+", default=[2.5, 4.5])
    cli.add_argument("--dense", action="store_true")
    cli.add_argument("--folder", type=Path, help="where to make the models; twice their size must be free")
    options = cli.parse_args()
    for gib in options.gib:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            path = made(folder, gib, dense=options.dense)
            changed(path)
            unit = copy(folder / "model.data", folder / "copy")
            say(f"{gib} GiB; copied in {unit:.1f} s; free on the disk: {shutil.disk_usage(folder).free >> 30} GiB")
            say(f"  {'':58} {'':7}   copies  bnfold   child mapped   (MiB)")
            measured(["-c", "import bnfold.api"], folder, unit)
            bnfold = ["-m", "bnfold"]
            measured([*bnfold, "plan", "model.onnx"], folder, unit)
            for level in ("off", "certificate", "full"):
                for old in folder.glob("folded.onnx*"):  # else the new data would get another name, and these stay
                    old.unlink()
                measured([*bnfold, "fold", "model.onnx", "-o", "folded.onnx", "--verify", level], folder, unit)
            measured([*bnfold, "verify", "model.onnx", "folded.onnx"], folder, unit)
            measured([*bnfold, "verify", "model.onnx", "model.onnx"], folder, unit)
            measured([*bnfold, "verify", "model.onnx", "changed.onnx"], folder, unit, expected=1)
            say(f"  copied again in {copy(folder / 'model.data', folder / 'copy'):.1f} s")
    return 0


def say(line: str) -> None:
    """One line of the answer, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
