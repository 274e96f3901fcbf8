"""What the node is, as values. Everything here is read, nothing is decided."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from installer.host import FileState


@dataclass(frozen=True)
class Os:
    """/etc/os-release."""

    id: str = ""
    version: str = ""
    codename: str = ""
    name: str = ""


@dataclass(frozen=True)
class Kernel:
    """`release` as uname -r, `arch` as Debian names it; what its module tools say of shiftfs; Secure Boot."""

    release: str = ""
    arch: str = ""
    has_shiftfs: bool = False
    has_headers: bool = False
    secure_boot: bool = False

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor; (0, 0) if the release starts otherwise."""
        parts = self.release.split("-")[0].split(".")
        if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
            return (0, 0)
        return (int(parts[0]), int(parts[1]))


@dataclass(frozen=True)
class Unit:
    """A systemd unit: LoadState, UnitFileState, ActiveState, MainPID, where it is defined."""

    load: str = "not-found"
    enabled: str = ""
    active: str = "inactive"
    pid: int = 0
    fragment: str = ""
    drop_ins: tuple[str, ...] = ()
    required_by: tuple[str, ...] = ()

    @property
    def is_enabled(self) -> bool:
        """Whether it starts at boot."""
        return self.enabled in ("enabled", "enabled-runtime", "alias")

    @property
    def is_active(self) -> bool:
        """Whether it runs."""
        return self.active in ("active", "reloading")


@dataclass(frozen=True)
class Module:
    """A kernel module: loaded (or built in), and whether the kernel could load it."""

    loaded: bool = False
    available: bool = False


@dataclass(frozen=True)
class Sysctl:
    """A kernel setting that exists: its value, and whether it can be changed here."""

    value: str
    writable: bool = True


@dataclass(frozen=True)
class Kubelet:
    """The kubelet, on paper and as it runs.

    `unit_files` are its unit's files in systemd's order (fragment, then drop-ins), path and text;
    `environment_files` those that they name, in order, None where missing; `arguments` what systemd would
    start now, `process` what runs. `endpoint` is the one in effect, from flag, configuration or default.
    `flavour` says in a sentence why this kubelet is not one that can be moved, empty where it is.
    """

    version: str = ""
    unit: str = "kubelet.service"
    unit_files: tuple[tuple[str, str], ...] = ()
    environment_files: Mapping[str, bytes | None] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    process: tuple[str, ...] = ()
    config_path: str = ""
    config: Mapping[str, object] = field(default_factory=dict)
    endpoint: str = ""
    cgroup_driver: str = ""
    pause_image: str = ""
    healthz: str = "127.0.0.1:10248"
    flavour: str = ""

    @property
    def minor(self) -> str:
        """The Kubernetes minor, as 1.34."""
        return ".".join(self.version.removeprefix("v").split(".")[:2])


@dataclass(frozen=True)
class Containerd:
    """containerd's CRI settings as its configuration says; `others` run containers in it that are no pods.

    `cni_bins` are all its plugin directories, `cni_bin` the first; `cgroup_driver` is its default runtime's, empty
    where that isn't set; `imports` are files that it adds to its configuration, which were not read here.
    """

    version: str = ""
    root: str = "/var/lib/containerd"
    pause_image: str = ""
    cni_bin: str = ""
    cni_conf: str = ""
    others: tuple[str, ...] = ()
    cni_bins: tuple[str, ...] = ()
    cgroup_driver: str = ""
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Crio:
    """CRI-O on the host; `effective` is what the running one says of itself, empty where none runs."""

    version: str = ""
    path: str = ""
    effective: Mapping[str, object] = field(default_factory=dict)

    @property
    def minor(self) -> str:
        """As 1.34."""
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True)
class Endpoint:
    """Where images are pulled from, as registries.conf names it; `insecure`: by HTTP, or whatever its certificate."""

    location: str
    insecure: bool = False
    digest_only: bool = False


@dataclass(frozen=True)
class Registry:
    """A registry that containerd is told of: whose images, where from at last, and by which mirrors first."""

    prefix: str
    server: Endpoint
    mirrors: tuple[Endpoint, ...] = ()


@dataclass(frozen=True)
class Authority:
    """The certificates (PEM) that a host's own is checked by."""

    host: str
    certificates: str


@dataclass(frozen=True)
class Registries:
    """What containerd is told of registries and CRI-O can be told too; `remarks` are sentences on the rest."""

    registries: tuple[Registry, ...] = ()
    authorities: tuple[Authority, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArtifactFile:
    """One file that an artifact brings: where it goes, its mode (octal permission bits), content's digest."""

    path: str
    mode: int
    sha256: str
    size: int
    target: str = ""


@dataclass(frozen=True)
class Artifact:
    """A verified artifact: where it came from, its digest, its files, and the text of its small ones by path."""

    source: str
    sha256: str
    version: str = ""
    files: tuple[ArtifactFile, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModuleSources:
    """Sources of a kernel module for DKMS: the kernels (a pattern) that they build for, their files' text by name."""

    name: str
    version: str
    kernels: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """All that steps may know.

    `files` holds what each path leads to, `links` what stands at it (absent: nothing), `keys` the repositories' public
    keys by address, `drop_ins` the operator's for CRI-O by name; `offers` the version of each package that apt's lists
    have, as of their last update; `ours` holds the changes that the journal says are ours, by key.
    """

    os: Os = Os()
    kernel: Kernel = Kernel()
    control_plane: bool = False
    swap: tuple[str, ...] = ()
    modules: Mapping[str, Module] = field(default_factory=dict)
    sysctls: Mapping[str, Sysctl] = field(default_factory=dict)
    files: Mapping[str, FileState] = field(default_factory=dict)
    links: Mapping[str, FileState] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    troubled: tuple[str, ...] = ()
    commands: frozenset[str] = frozenset()
    units: Mapping[str, Unit] = field(default_factory=dict)
    kubelet: Kubelet | None = None
    containerd: Containerd = Containerd()
    crio: Crio = Crio()
    registries: Registries = Registries()
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    drop_ins: Mapping[str, str] = field(default_factory=dict)
    offers: Mapping[str, str] = field(default_factory=dict)
    shiftfs_sources: ModuleSources | None = None
    ours: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def unit(self, name: str) -> Unit:
        """The unit, or one that is not there."""
        return self.units.get(name, Unit())
