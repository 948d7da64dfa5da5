"""The options that commands share: how each is spelt, what it takes, and the line that --help has of it."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from bnfold.report.forms import Format


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


Model = Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX file.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How the answer is written to stdout.")]
Report = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the answer here too: .json, .txt, .xml (JUnit), .sarif, .md or .html. Repeatable.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No answer on stdout, only the exit code and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Name every BatchNormalization; log to stderr.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the random inputs.")]
Dim = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE", help="Size of a symbolic dimension. Repeatable."),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Inputs to run as well: an .npz (by name, and `labels`) or .npy, a folder of them, a folder of ONNX test "
        "data (test_data_set_0), or a Python function pkg.mod:function that yields them.",
    ),
]
Provider = Annotated[str, typer.Option("--provider", help="onnxruntime's execution provider.")]
CustomOps = Annotated[
    list[str] | None,
    typer.Option("--custom-ops", metavar="LIB", help="A library of custom operators to run. Repeatable."),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Limit of one run.")]
MaxBytes = Annotated[int | None, typer.Option("--max-bytes", min=1, help="Refuse larger model files.")]
Certificate = Annotated[
    Path | None, typer.Option("--certificate", metavar="FILE", help="Write the certificate here, as JSON.")
]
GivenCertificate = Annotated[
    Path | None,
    typer.Option("--certificate", metavar="FILE", help="Check this certificate of `bnfold fold` again, too."),
]
CertificateAlone = Annotated[
    bool, typer.Option("--certificate-alone", help="Run neither model: the certificate alone decides.")
]
SaveCounterexample = Annotated[
    Path | None,
    typer.Option("--save-counterexample", metavar="FILE", help="Write inputs that tell the models apart, as .npz."),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="GLOB", help="Fold only what this names: node, tensor or scope. Repeatable."),
]
Skip = Annotated[
    list[str] | None,
    typer.Option("--skip", metavar="GLOB", help="Do not fold what this names. Repeatable."),
]
DropMismatched = Annotated[
    bool, typer.Option("--drop-mismatched", help="Leave unfolded what is found to differ, instead of exit 4.")
]
BnOnly = Annotated[bool, typer.Option("--bn-only", help="Leave hand-written Mul and Add alone.")]
FreezeInputs = Annotated[
    bool,
    typer.Option("--freeze-inputs", help="Make initializers that are inputs too constants, and drop those inputs."),
]
Inline = Annotated[bool, typer.Option("--inline", help="Inline the model's own functions first.")]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select", metavar="CODES", help="Only these rules: codes or their beginnings (BN005,BN1). Repeatable."
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="CODES", help="Not these rules, even if selected. Repeatable."),
]
ExitZero = Annotated[bool, typer.Option("--exit-zero", help="Exit 0 whatever is found.")]
ExternalDataOption = Annotated[
    ExternalData,
    typer.Option("--external-data", help="Data in the model, in one file beside it (OUT.data), or as they were."),
]
MergeBranches = Annotated[
    bool, typer.Option("--merge-branches", help="Make one convolution of parallel ones whose outputs are added.")
]
AssumeInference = Annotated[
    bool,
    typer.Option("--assume-inference", help="Below opset 7: take nodes with is_test=0 and one output for inference."),
]
