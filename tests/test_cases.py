"""Every step on every node that we have thought of: a directory is a test. tests/cases/README.md says how."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from installer.changes import Change, DataDirectory, InPlace, InstallFiles, OwnLines, SwitchRuntime, WriteFile, load
from installer.changes.artifact import STAGED
from installer.changes.files import restore
from installer.engine.install import undo
from installer.errors import DeployError
from installer.facts import containerd, debian, kubelet, lazy
from installer.facts.model import Artifact, Containerd, Crio, Facts, Kernel, Kubelet, Module, Os, Sysctl, Unit
from installer.host import FileState, encode, sha256
from installer.journal import Entry, Journal
from installer.plan import Plan, make
from installer.settings import Settings
from installer.steps import ORDER, Step
from tests.archive import pack
from tests.tree_host import STATE, TreeHost, a_host

CASES = Path(__file__).with_name("cases")
WRITING = os.environ.get("CASES") == "write"
KEEP = ".keep"
FILES = (WriteFile, OwnLines, DataDirectory, InstallFiles, SwitchRuntime)

Json = dict[str, Any]


@dataclasses.dataclass
class Case:
    """One case, its tree copied to a host."""

    folder: Path
    said: Json
    host: TreeHost

    @property
    def step(self) -> Step:
        """The step that it is about."""
        return next(s for s in ORDER[self.said["profile"]] if s.name == self.folder.parent.name)

    @property
    def settings(self) -> Settings:
        """The operator's."""
        return Settings(**{k: _frozen(v) for k, v in self.said["settings"].items()})

    def facts(self, ours: list[Entry]) -> Facts:
        """The node now: of files what the tree has, the rest as told."""
        said = self.said
        modules = lazy.modules(self.host, said["kernel"]["release"])
        told = {name: Module(**m) for name, m in said["modules"].items()}
        return Facts(
            os=Os(**said["os"]),
            kernel=Kernel(**said["kernel"]),
            modules=lazy.Looked(lambda name: told.get(name) or modules[name]),
            sysctls={name: Sysctl(**s) for name, s in said["sysctls"].items()},
            files=lazy.files(self.host),
            links=lazy.links(self.host),
            packages=said["packages"],
            commands=frozenset(said["commands"]),
            units={name: Unit(**u) for name, u in said["units"].items()},
            kubelet=self._kubelet(),
            containerd=self._containerd(),
            crio=Crio(**said.get("crio", {})),
            artifacts=self._artifacts(),
            keys=said.get("keys", {}),
            drop_ins=said.get("drop_ins", {}),
            ours={entry.change.key: entry.change.to_dict() for entry in ours},
        )

    def earlier(self) -> list[Entry]:
        """What an earlier run is said to have made; another profile wants it, so that no plan takes it back."""
        changes = [load(change) for change in self.said.get("ours", [])]
        return [Entry(0, "earlier", change, {}, ["another"], "done") for change in changes]

    def _kubelet(self) -> Kubelet:
        told = dict(self.said["kubelet"])
        fragment = told.pop("fragment", "")
        if not fragment:
            return Kubelet(**{k: _frozen(v) for k, v in told.items()})
        shown = {"LoadState": "loaded", "FragmentPath": fragment, "NeedDaemonReload": "yes"}
        self.host.commands["systemctl"] = lambda verb, *_: (
            "".join(f"{k}={v}\n" for k, v in shown.items()) if verb == "show" else ""
        )
        self.host.commands["kubelet"] = lambda *_: f"Kubernetes {told['version']}\n"
        found = kubelet.gather(self.host)
        assert found
        return dataclasses.replace(found, process=tuple(told.get("process", found.arguments)))

    def _containerd(self) -> Containerd:
        told = {k: _frozen(v) for k, v in self.said["containerd"].items()}
        text = self.host.read(containerd.CONFIG)
        read = containerd.parse(text.decode()) if text is not None else Containerd(**told)
        return dataclasses.replace(read, **told)

    def _artifacts(self) -> dict[str, Artifact]:
        folder = self.said.get("artifact")
        if not folder:
            return {name: Artifact("", "", **told) for name, told in self.said.get("artifacts", {}).items()}
        data = pack(self.folder.parent / folder, "0.6.7.linux")
        path = f"{STAGED}/{sha256(data)}"
        if not self.host.exists(path):
            self.host.put(path, data, 0o600)
        return {"sysbox": debian.listing(self.host.real(path), sha256(data))}


def cases() -> list[Path]:
    return sorted(path.parent for path in CASES.glob("*/*/facts.json"))


def test_every_step_has_cases() -> None:
    steps = {step.name for steps in ORDER.values() for step in steps}
    assert {folder.parent.name for folder in cases()} >= steps - {"shiftfs"}  # tests/test_shiftfs.py


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    folder: Path = request.param
    said = merged(json.loads((CASES / "defaults.json").read_text()), json.loads((folder / "facts.json").read_text()))
    with a_host() as host:
        lay(folder / "before", host, said.get("modes", {}))
        yield Case(folder, said, host)


@pytest.mark.parametrize("case", cases(), ids=lambda f: str(f.relative_to(CASES)), indirect=True)
def test_a_step_does_what_its_case_says_and_takes_it_back(case: Case) -> None:
    before = case.host.snapshot()
    entries = case.earlier()
    try:
        plan = planned(case, entries)
    except DeployError as refused:
        expect(case, {"refused": refused.to_dict()})
        assert case.host.snapshot() == before
        return
    expect(case, plan.to_dict())

    for change in changes(plan):
        assert change.describe()
        change.diff(case.facts(entries))
        assert load(json.loads(json.dumps(change.to_dict()))) == change
    apply(case, plan)
    expect_tree(case)

    mine = Journal(case.host).entries
    again = planned(case, [*entries, *mine])
    assert changes(again) == changes(plan)
    assert [i for i in again.todo if isinstance(i.change, FILES)] == []
    assert again.todo == [i for i in plan.todo if not isinstance(i.change, FILES)]
    assert again.obsolete == ()
    assert again.remarks == plan.remarks

    for entry in reversed(mine):
        take_back(case.host, entry.change.key)
    assert case.host.snapshot() == before


def planned(case: Case, entries: list[Entry]) -> Plan:
    return make(case.facts(entries), case.settings, [case.step], entries, case.said["profile"])


def changes(plan: Plan) -> list[Change]:
    return [item.change for item in plan.items]


def apply(case: Case, plan: Plan) -> None:
    """Makes the plan's changes of files, as the engine does; of the switch its file."""
    for item in plan.todo:
        change, journal = item.change, Journal(case.host)
        if isinstance(change, FILES):
            found = change.capture(case.host, journal)
            entry = journal.begin(item.step, change, found, case.said["profile"])
            if isinstance(change, InPlace):
                after = change.apply(case.host, journal, found)
                change.verify(case.host)
            else:
                assert isinstance(change, SwitchRuntime)
                like = FileState("file", change.mode, change.uid, change.gid)
                case.host.make_directory(found["path"].rpartition("/")[0])
                case.host.replace(found["path"], encode(change.content), like)
                after = {}
            journal.done(entry, after)


def take_back(host: TreeHost, key: str) -> None:
    journal = Journal(host)
    entry = journal.entry(key)
    assert entry
    if isinstance(entry.change, SwitchRuntime):
        assert restore(host, journal, entry.before, encode(entry.change.content)) == []
        journal.undone(entry, [])
    else:
        assert undo(host, journal, entry) == []


def expect(case: Case, plan: Json) -> None:
    path = case.folder / "plan.json"
    text = json.dumps(plan, indent=1) + "\n"
    if WRITING:
        path.write_text(text)
    assert plan == json.loads(path.read_text())


def expect_tree(case: Case) -> None:
    modes = case.said.get("modes_after", {})
    if WRITING:
        write(case.host, case.folder / "after", modes)
    with a_host() as wanted:
        lay(case.folder / "after", wanted, modes)
        assert case.host.snapshot() == wanted.snapshot()


def lay(folder: Path, host: TreeHost, modes: Mapping[str, str]) -> None:
    """Copies a case's tree to the host: root's, with the two modes that git keeps, and those that are told."""
    for path in sorted(folder.rglob("*")):
        to = host.root / path.relative_to(folder)
        if path.is_symlink():
            to.symlink_to(os.readlink(path))
        elif path.is_dir():
            to.mkdir(exist_ok=True)
            to.chmod(0o755)
        elif path.name != KEEP:
            shutil.copyfile(path, to)
            at = "/" + str(path.relative_to(folder))
            to.chmod(int(modes[at], 8) if at in modes else 0o755 if path.stat().st_mode & 0o100 else 0o644)


def write(host: TreeHost, folder: Path, modes: Mapping[str, str]) -> None:
    """Writes the host's tree as a case's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, state in host.snapshot().items():
        to = folder / path.lstrip("/")
        if state.kind == "link":
            to.symlink_to(state.target)
        elif state.kind == "dir":
            to.mkdir()
            if not set(host.names(path)) - {STATE.rpartition("/")[2]} and path not in ("/etc", "/var/lib"):
                (to / KEEP).touch()
        else:
            assert state.mode in (0o644, 0o755) or path in modes, f"{path}: tell its mode in facts.json"
            to.write_bytes(state.content or b"")
            to.chmod(0o755 if state.mode & 0o100 else 0o644)


def merged(base: Json, over: Json) -> Json:
    """`over` put into `base`: objects deep, the rest as a whole, null takes away."""
    made = dict(base)
    for key, value in over.items():
        old = made.get(key)
        if value is None:
            made.pop(key, None)
        else:
            made[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return made


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
