"""The real parts that tests run, built once from pinned Go modules and kept in a cache.

`path("kubelet")` is the program's file, built first if it is not there yet;
`python -m tests.components` builds what is missing, with progress.
"""

from tests.components.build import path
from tests.components.recipes import MINOR, OLDER_MINOR, version

__all__ = ["MINOR", "OLDER_MINOR", "path", "version"]
