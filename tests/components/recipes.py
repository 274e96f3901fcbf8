"""What is built, and from which pinned module. The pins are each recipe folder's go.mod and go.sum."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.components import cache

MINOR = "1.34"
OLDER_MINOR = "1.31"

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """One Go module of ours, which pins one product, and the programs built in it."""

    product: str
    minor: str
    module: str
    programs: dict[str, str]
    """program -> the package that `go build` is given"""
    cgo: bool = False
    tags: tuple[str, ...] = ()
    stamp: str = ""
    """the package whose version variables the linker sets"""

    @property
    def folder(self) -> Path:
        return _HERE / "go" / f"{self.product}-{self.minor}"

    @property
    def version(self) -> str:
        pinned = re.search(
            rf"^(?:require\s|\s)\s*{re.escape(self.module)} (v\S+)",
            (self.folder / "go.mod").read_text(),
            re.MULTILINE,
        )
        if not pinned:
            raise LookupError(f"{self.folder}/go.mod does not require {self.module}")
        return pinned[1]

    @property
    def ldflags(self) -> str:
        words = ["-s", "-w"]
        if self.stamp:
            major, minor = self.version.lstrip("v").split(".")[:2]
            stamps = {
                "gitVersion": self.version,
                "gitMajor": major,
                "gitMinor": minor,
                "gitTreeState": "clean",
            }
            words += [f"-X {self.stamp}.{name}={value}" for name, value in stamps.items()]
        return " ".join(words)

    @property
    def home(self) -> Path:
        """The folder in the cache; its name changes whenever anything of the recipe does."""
        files = [f for f in self.folder.rglob("*") if f.is_file()]
        key = cache.digest(files, repr(self))
        return cache.root() / "components" / f"{self.product}-{self.version}-{key}"


# what upstream's releases leave in, minus the C libraries that neither the node nor this machine needs
_CRIO_TAGS = (
    "seccomp",
    "containers_image_openpgp",
    "exclude_graphdriver_btrfs",
    "exclude_graphdriver_devicemapper",
    "netgo",
    "osusergo",
)
_KUBERNETES = ("kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")


def _kubernetes(minor: str, *programs: str) -> Recipe:
    return Recipe(
        "kubernetes",
        minor,
        "k8s.io/kubernetes",
        {name: f"./{name}" for name in programs},
        tags=("grpcnotrace",),
        stamp="k8s.io/component-base/version",
    )


RECIPES = (
    Recipe("crictl", "1.34", "sigs.k8s.io/cri-tools", {"crictl": "sigs.k8s.io/cri-tools/cmd/crictl"}),
    Recipe(
        "crio",
        "1.34",
        "github.com/cri-o/cri-o",
        {"crio": "github.com/cri-o/cri-o/cmd/crio"},
        cgo=True,
        tags=_CRIO_TAGS,
    ),
    _kubernetes("1.34", *_KUBERNETES),
    _kubernetes("1.31", "kubelet"),
)

# programs compiled from C that lies in a Go module: program -> the recipe's product and the sources' folder
C_PROGRAMS = {"pinns": ("crio", "pinns/src")}


def of_minor(minor: str) -> list[Recipe]:
    return [r for r in RECIPES if r.minor == minor]


def find(program: str, minor: str) -> Recipe:
    product = C_PROGRAMS[program][0] if program in C_PROGRAMS else None
    for recipe in of_minor(minor):
        if recipe.product == product or (product is None and program in recipe.programs):
            return recipe
    raise LookupError(f"no recipe builds {program} for Kubernetes {minor}")


def version(program: str, minor: str = MINOR) -> str:
    """The pinned version of a program, such as v1.34.9."""
    return find(program, minor).version
