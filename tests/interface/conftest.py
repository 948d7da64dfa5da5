from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from command_line import BLOCKED, TRAINING, TWO, WITHOUT, Answer, custom, foldable, parsed

from bnfold import cli as command_line_module


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model of each kind in it."""
    models = {
        "m": foldable(),
        "two": parsed(TWO),
        "without": parsed(WITHOUT),
        "blocked": parsed(BLOCKED),
        "training": parsed(TRAINING),
        "custom": custom(),
    }
    for name, model in models.items():
        onnx.save(model, tmp_path / f"{name}.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(desk: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Iterator[Callable[..., Answer]]:
    """Calls the command line in this process, in the folder `desk`."""
    del desk

    def call(*arguments: object) -> Answer:
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command_line_module.main([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        assert isinstance(stopped.value.code, int)
        return Answer(stopped.value.code, out, err.decode())

    handled = [number for number in signal.Signals if number.name in {"SIGTERM", "SIGHUP"}]
    before = {number: signal.getsignal(number) for number in handled}
    yield call
    for number, handler in before.items():
        signal.signal(number, handler)
