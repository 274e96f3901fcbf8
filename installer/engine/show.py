"""What plan, preflight and status print; nothing is touched."""

import dataclasses
import json
from collections import Counter

from installer import __version__
from installer.changes import Record, SwitchRuntime
from installer.engine import look
from installer.engine.report import Reporter
from installer.facts.model import Facts
from installer.host import Host
from installer.journal import Journal
from installer.plan import Plan, make, make_cleanup
from installer.settings import Settings
from installer.steps import ORDER
from installer.switch import outlook


def plan(host: Host, settings: Settings, profile: str, *, cleanup: bool, as_json: bool) -> None:
    """Prints what install, or cleanup, would do."""
    if cleanup:
        _plan_cleanup(Journal(host), profile, as_json=as_json)
        return
    report = Reporter(settings, profile)
    facts, made = _make(host, settings, profile, report)
    moves = [item.change for item in made.todo if isinstance(item.change, SwitchRuntime)]
    seen = [outlook.look(host, settings, facts, change, report.node) for change in moves]
    if as_json:
        print(json.dumps({**made.to_dict(), "switch": seen[0].to_dict() if seen else None}, indent=2))
    else:
        print("\n".join([_readable(facts, made), *(line for one in seen for line in one.lines())]))


def preflight(host: Host, settings: Settings, profile: str, *, as_json: bool) -> int:
    """Prints every finding; returns 3 where one refuses."""
    findings = look.judge(
        look.look(host, settings, Journal(host), control_plane=_control_plane(Reporter(settings, profile))),
        settings,
        profile,
    )
    if as_json:
        print(
            json.dumps(
                [dataclasses.asdict(f) for f in findings],
                indent=2,
            )
        )
    else:
        for f in findings:
            print(
                f"{f.level:6} {f.name}: {f.found}"
                + (f"\n       remedy: {f.remedy}" if f.remedy and f.level != "fine" else "")
            )
    return 3 if any(f.level == "refuse" for f in findings) else 0


def status(host: Host, settings: Settings, *, as_json: bool) -> None:
    """Prints what is installed, by which profile, and what no longer holds."""
    journal = Journal(host)
    facts = look.look(host, settings, journal, control_plane=False)
    drift = [e.change.describe() for e in journal.entries if e.state == "done" and not e.change.satisfied(facts)]
    unfinished = [f"{e.state}: {e.change.describe()}" for e in journal.entries if e.state != "done"]
    profiles = Counter(claim for e in journal.entries for claim in e.claims)
    kubelet = facts.kubelet
    said: Record = {
        "version": __version__,
        "profiles": dict(profiles),
        "kubelet": {"version": kubelet.version, "endpoint": kubelet.endpoint} if kubelet else None,
        "crio": facts.crio.version,
        "changes": len(journal.entries),
        "drift": drift,
        "unfinished": unfinished,
    }
    if as_json:
        print(json.dumps(said, indent=2))
        return
    print(
        f"sysbox-deploy {__version__}: "
        + (", ".join(f"profile {p}: {n} changes" for p, n in sorted(profiles.items())) or "nothing is installed")
    )
    if kubelet:
        print(
            f"kubelet {kubelet.version} on {kubelet.endpoint}"
            + (f", CRI-O {facts.crio.version}" if facts.crio.version else "")
        )
    for line in [*(f"drift: {d}" for d in drift), *unfinished]:
        print(line)
    if drift or unfinished:
        print("run install again to put this right")


def _make(host: Host, settings: Settings, profile: str, report: Reporter) -> tuple[Facts, Plan]:
    journal = Journal(host)
    facts = look.look(host, settings, journal, control_plane=_control_plane(report))
    look.refuse(look.judge(facts, settings, profile))
    facts = look.with_sources(host, settings, facts, profile)
    return facts, make(facts, settings, ORDER[profile], journal.entries, profile)


def _control_plane(report: Reporter) -> bool:
    seen = report.look()
    return bool(seen and seen.control_plane)


def _readable(facts: Facts, made: Plan) -> str:
    lines: list[str] = []
    for item in made.items:
        lines.append(f"{'  =' if item.reason else '  *'} {item.step}: {item.reason or item.change.describe()}")
        if not item.reason:
            lines += ["        " + line for line in item.change.diff(facts).splitlines()]
    lines += [f"  - {entry.step}: take back: {entry.change.describe()}" for entry in made.obsolete]
    lines += [f"  . {step}: {remark}" for step, remark in made.remarks]
    todo, held = len(made.todo), len(made.items) - len(made.todo)
    lines.append(f"{todo} changes to make, {held} hold already, {len(made.obsolete)} to take back")
    return "\n".join(lines)


def _plan_cleanup(journal: Journal, profile: str, *, as_json: bool) -> None:
    mine, shared = make_cleanup(journal.entries, profile)
    if as_json:
        print(
            json.dumps(
                {
                    "undo": [{"step": e.step, "change": e.change.to_dict()} for e in mine],
                    "keep": [e.change.key for e in shared],
                },
                indent=2,
            )
        )
        return
    for entry in mine:
        print(f"  - {entry.step}: take back: {entry.change.describe()}")
    for entry in shared:
        print(f"  = {entry.step}: stays, for {entry.others(profile)}: {entry.change.describe()}")
    print(f"{len(mine)} changes to take back, {len(shared)} stay for another profile")
