"""The system calls as they are, for those who stand outside of what is watched."""

from os import chmod, close, fchmod, listdir, mkdir, open, readlink, rename, rmdir, symlink, unlink, write

__all__ = [
    "chmod",
    "close",
    "fchmod",
    "listdir",
    "mkdir",
    "open",
    "readlink",
    "rename",
    "rmdir",
    "symlink",
    "unlink",
    "write",
]
