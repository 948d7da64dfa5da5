"""Settings that all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# A shared machine is slow now and then, which says nothing of the code. On CI hypothesis has a profile of its own:
# no deadline either, and the same examples each time.
settings.register_profile("local", deadline=None)
# What the surroundings think of colours is none of these tests' business; those about it say it themselves.
for variable in ("NO_COLOR", "FORCE_COLOR"):
    os.environ.pop(variable, None)
if "CI" not in os.environ:
    settings.load_profile("local")
