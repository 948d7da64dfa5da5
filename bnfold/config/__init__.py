"""What options are worth where the command line is silent: the environment, then `[tool.bnfold]` of a file.

    command line  >  BNFOLD_FOLD_TIMEOUT  >  BNFOLD_TIMEOUT  >  [tool.bnfold.fold] timeout  >  [tool.bnfold] timeout

A value replaces one from further right; lists are not joined. What is not known, and what has the wrong type, is an
error that names the file or the variable.
"""

from __future__ import annotations

from bnfold.config.environment import variables, wish
from bnfold.config.files import Table, per_site_ignores, table_of
from bnfold.config.merging import Setting, settled
from bnfold.config.options import Commands, Kind, Option

__all__ = [
    "Commands",
    "Kind",
    "Option",
    "Setting",
    "Table",
    "per_site_ignores",
    "settled",
    "table_of",
    "variables",
    "wish",
]
