"""A base for the image where there is no registry: Debian's Python and nsenter, little else, by mmdebstrap.

`python -m tests.image_base` makes it known to the image builder, if it is not yet, and prints its name.
"""

import os
from pathlib import Path

from image.build import Engine, arch, run
from tests.components import cache

# the interpreter without python3-minimal, which would bring dpkg and tar along
_PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "util-linux", "busybox", "ca-certificates")
_MERGED_USR = 'cd "$1" && for d in bin lib lib64 sbin; do mkdir -p usr/$d; ln -s usr/$d $d; done'
_TRIM = Path(__file__).with_suffix(".sh")


def main() -> None:
    engine, machine = Engine.find(), arch()
    key = cache.digest([Path(__file__), _TRIM], machine)
    name = f"localhost/sysbox-deploy-base:bookworm-{key}"
    context = cache.root() / "base-image" / key
    with cache.locked(context / ".lock"):
        if not engine.has(name):
            tar, file = context / "base.tar", context / "Containerfile"
            if not tar.exists():
                _mmdebstrap(machine, context / "partial.tar")
                (context / "partial.tar").rename(tar)
            file.write_text("FROM scratch\nADD base.tar /\n")
            engine.build(name, file, context, machine, {})
    print(name)


def _mmdebstrap(machine: str, out: Path) -> None:
    mirror = os.environ.get("DEBIAN_MIRROR")
    run(
        "mmdebstrap", "--quiet", "--variant=extract", "--skip=cleanup,output/dev",
        f"--architectures={machine}", f"--include={','.join(_PACKAGES)}",
        f"--setup-hook={_MERGED_USR}", f'--extract-hook=sh {_TRIM} "$1"',
        "bookworm", str(out), *([mirror] if mirror else []),
    )  # fmt: skip


if __name__ == "__main__":
    main()
