"""The commands: a module for each, thin: parse, call, render, exit code.

None is imported before it is asked for, and nothing heavy before a command needs it, so that `--help`, `--version` and
completion answer at once.
"""

from __future__ import annotations
