"""Several models: which they are, where each goes, and what became of each; one bad model never stops the rest.

Invariant: the outcomes and their order are those of one model after the other, however many are done at a time.
"""

from __future__ import annotations
