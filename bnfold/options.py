"""The options that commands share: how each is spelt, what it takes, the line and the group that --help has of it.

A flag that may stand in pyproject.toml or in the environment has a second name that takes it back (`--no-inline`), or
else the command line could not come first.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from bnfold.report.forms import Format

MODELS = "Models"
CHOICE = "What is done"
PROOF = "How it is shown"
RUNS = "How models are run"
ANSWER = "The answer"
SETTINGS = "Settings"
"""The groups of --help."""


class Verify(enum.StrEnum):
    """How much is shown before anything is written."""

    FULL = "full"
    CERTIFICATE = "certificate"
    OFF = "off"


class ExternalData(enum.StrEnum):
    """Where the data of large constants are written."""

    AUTO = "auto"
    INLINE = "inline"
    FILE = "file"


class Init(enum.StrEnum):
    """What an inserted BatchNormalization begins with."""

    IDENTITY = "identity"
    PRESERVE = "preserve"
    NORMALIZE = "normalize"


class VerifyInsertion(enum.StrEnum):
    """Whether an insertion is shown to have left the model the same, before anything is written."""

    FULL = "full"
    OFF = "off"


Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help="ONNX files, folders (searched for *.onnx), globs, or - for stdin.",
        show_default=False,
    ),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        "--files-from",
        metavar="FILE",
        help="Models too: one name a line (or with NUL between), - reads them from stdin.",
        rich_help_panel=MODELS,
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        min=0,
        metavar="N",
        help="Models at a time, each in a process of its own with one thread; 0: as many as processors.",
        rich_help_panel=MODELS,
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        min=0.1,
        metavar="SECONDS",
        help="Limit of all that is done with one model: beyond it, its process is ended, and it is undecided.",
        rich_help_panel=MODELS,
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Take settings from [tool.bnfold] of this file, and not of the nearest pyproject.toml.",
        rich_help_panel=SETTINGS,
    ),
]
NoConfig = Annotated[
    bool,
    typer.Option("--no-config", help="Read no file with settings.", rich_help_panel=SETTINGS),
]
FormatOption = Annotated[
    Format, typer.Option("--format", help="How the answer is written to stdout.", rich_help_panel=ANSWER)
]
Report = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the answer here too: .json, .txt, .xml (JUnit), .sarif, .md or .html. Repeatable.",
        rich_help_panel=ANSWER,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet/--no-quiet",
        "-q",
        help="No answer on stdout, only the exit code and errors.",
        rich_help_panel=ANSWER,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose/--no-verbose",
        "-v",
        help="Name every BatchNormalization; log to stderr.",
        rich_help_panel=ANSWER,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, metavar="N", help="Seed of the random inputs.", rich_help_panel=RUNS)
]
Dim = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE", help="Size of a symbolic dimension. Repeatable.", rich_help_panel=RUNS),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Inputs to run as well: an .npz (by name, and `labels`) or .npy, a folder of them, a folder of ONNX test "
        "data (test_data_set_0), or a Python function pkg.mod:function that yields them.",
        rich_help_panel=RUNS,
    ),
]
Provider = Annotated[
    str,
    typer.Option("--provider", metavar="NAME", help="onnxruntime's execution provider.", rich_help_panel=RUNS),
]
CustomOps = Annotated[
    list[str] | None,
    typer.Option(
        "--custom-ops",
        metavar="LIB",
        help="A library of custom operators to run. Repeatable.",
        rich_help_panel=RUNS,
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        "--threads",
        min=0,
        metavar="N",
        help="Threads of onnxruntime; 0: up to 4, and one where --jobs has several models at a time.",
        rich_help_panel=RUNS,
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Limit of one run.", rich_help_panel=RUNS)
]
MaxBytes = Annotated[
    int | None,
    typer.Option("--max-bytes", min=1, metavar="N", help="Refuse larger model files.", rich_help_panel=MODELS),
]
Certificate = Annotated[
    Path | None,
    typer.Option("--certificate", metavar="FILE", help="Write the certificate here, as JSON.", rich_help_panel=PROOF),
]
GivenCertificate = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        metavar="FILE",
        help="Check this certificate of `bnfold fold` again, too.",
        rich_help_panel=PROOF,
    ),
]
CertificateAlone = Annotated[
    bool,
    typer.Option(
        "--certificate-alone", help="Run neither model: the certificate alone decides.", rich_help_panel=PROOF
    ),
]
SaveCounterexample = Annotated[
    Path | None,
    typer.Option(
        "--save-counterexample",
        metavar="FILE",
        help="Write inputs that tell the models apart, as .npz.",
        rich_help_panel=PROOF,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="GLOB",
        help="Fold only what this names: node, tensor or scope. Repeatable.",
        rich_help_panel=CHOICE,
    ),
]
Skip = Annotated[
    list[str] | None,
    typer.Option("--skip", metavar="GLOB", help="Do not fold what this names. Repeatable.", rich_help_panel=CHOICE),
]
DropMismatched = Annotated[
    bool,
    typer.Option(
        "--drop-mismatched/--no-drop-mismatched",
        help="Leave unfolded what is found to differ, or cannot be followed, instead of exit 4 or 6.",
        rich_help_panel=PROOF,
    ),
]
BnOnly = Annotated[
    bool,
    typer.Option("--bn-only/--no-bn-only", help="Leave hand-written Mul and Add alone.", rich_help_panel=CHOICE),
]
FreezeInputs = Annotated[
    bool,
    typer.Option(
        "--freeze-inputs/--no-freeze-inputs",
        help="Make initializers that are inputs too constants, and drop those inputs.",
        rich_help_panel=CHOICE,
    ),
]
Inline = Annotated[
    bool,
    typer.Option("--inline/--no-inline", help="Inline the model's own functions first.", rich_help_panel=CHOICE),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        metavar="CODES",
        help="Only these rules: codes or their beginnings (BN005,BN1). Repeatable.",
        rich_help_panel=CHOICE,
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore", metavar="CODES", help="Not these rules, even if selected. Repeatable.", rich_help_panel=CHOICE
    ),
]
ExitZero = Annotated[
    bool, typer.Option("--exit-zero/--no-exit-zero", help="Exit 0 whatever is found.", rich_help_panel=ANSWER)
]
ExternalDataOption = Annotated[
    ExternalData,
    typer.Option(
        "--external-data",
        help="Data in the model, in one file beside it (OUT.data), or as they were.",
        rich_help_panel=MODELS,
    ),
]
MergeBranches = Annotated[
    bool,
    typer.Option(
        "--merge-branches/--no-merge-branches",
        help="Make one convolution of parallel ones whose outputs are added.",
        rich_help_panel=CHOICE,
    ),
]
AssumeInference = Annotated[
    bool,
    typer.Option(
        "--assume-inference/--no-assume-inference",
        help="Below opset 7: take nodes with is_test=0 and one output for inference.",
        rich_help_panel=CHOICE,
    ),
]
