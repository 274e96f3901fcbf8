"""A host whose files lie in a directory and whose commands are answered from a table."""

from pathlib import Path

from installer.host import Host, Result, Tree


class FakeHost(Host):
    """Commands that the table (their line, to what they print) lacks answer as missing ones do; `asked` keeps them."""

    def __init__(self, root: Path, answers: dict[str, str] | None = None) -> None:
        Tree.__init__(self, root)
        self.init = 0
        self.inherited = set()
        self.answers = answers or {}
        self.asked: list[str] = []

    def put(self, path: str, content: str | bytes) -> None:
        """A file on the host."""
        real = self.root / path.lstrip("/")
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_bytes(content.encode() if isinstance(content, str) else content)

    def run(self, *argv: str, timeout: int = 60, stdin: bytes = b"", check: bool = True) -> Result:
        line = " ".join(argv)
        self.asked.append(line)
        if line in self.answers:
            return Result(0, self.answers[line], "")
        assert not check, f"{line} would fail"
        return Result(127, "", f"timeout: failed to run command '{argv[0]}': No such file or directory")
