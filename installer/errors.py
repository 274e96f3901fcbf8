"""Errors that a person can act on: what was found, where, and the remedy; each knows its exit status."""


class DeployError(Exception):
    """A failure with a cause and a remedy.

    `what` is the cause in one sentence, `where` the file, unit or address it concerns, `found` the offending
    text, `remedy` what to do next. `exit_status` is the process's: 1 failed and worth retrying, 2 wrong usage
    or settings, 3 refused.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str = "", found: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"  where:  {self.where}")
        if self.found:
            parts.append(f"  found:  {self.found}")
        if self.remedy:
            parts.append(f"  remedy: {self.remedy}")
        return "\n".join(parts)

    def to_dict(self) -> dict[str, str]:
        """The same for machines."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "found": self.found,
            "remedy": self.remedy,
        }


class TemporaryError(DeployError):
    """It may pass by itself (the API, a mirror, dpkg's lock): retried with backoff, then worth another run."""


class PermanentError(DeployError):
    """It will not pass by itself, and something had been touched: stop, report, keep the journal."""


class SettingsError(DeployError):
    """What the operator asked for is not valid; nothing was touched."""

    exit_status = 2


class RefusedError(DeployError):
    """The node, or a file on it, is not one that we may change; nothing was touched."""

    exit_status = 3


class CommandError(DeployError):
    """A command on the host failed; `found` ends its output, `where` is a line that a person can paste."""

    def __init__(self, argv: list[str], code: int, output: str, paste: str, *, timed_out: bool = False) -> None:
        said = output.strip()[-2000:] or "(no output)"
        how = "timed out" if timed_out else f"failed with exit status {code}"
        super().__init__(
            f"{argv[0]} {how}",
            where=paste,
            found=said,
            remedy="run the command above on the node to see it again",
        )
        self.argv = argv
        self.code = code
        self.output = output
        self.timed_out = timed_out
