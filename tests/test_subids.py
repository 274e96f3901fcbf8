"""Subordinate ids: the same range in both files, in a hole that overlaps nobody, and nothing else touched."""

import itertools
import re
from collections.abc import Iterable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from installer.errors import RefusedError
from installer.facts import subids
from installer.facts.subids import Choice, append

PODS = 4096 * 65536
USER = "containers"


def choose(subuid: str, subgid: str, login_defs: str = "", count: int = PODS, uid: int | None = None) -> Choice:
    return subids.choose(subuid, subgid, login_defs, USER, count, uid=uid)


def refusal(subuid: str, subgid: str, login_defs: str = "", count: int = PODS) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        choose(subuid, subgid, login_defs, count)
    assert caught.value.where
    assert caught.value.found
    assert caught.value.remedy
    return caught.value


def both(text: str) -> tuple[str, str]:
    return text, text


def test_the_seeds_example_comes_out_as_the_seed_has_it() -> None:
    choice = choose(*both("cesar:100000:65536\n"))
    assert choice.subuid_lines == choice.subgid_lines == ("containers:165536:268435456",)
    text = append("cesar:100000:65536\n", choice.subuid_lines)
    assert text == "cesar:100000:65536\ncontainers:165536:268435456\n"


def test_empty_and_missing_files_give_the_lowest_ids_that_login_defs_allows() -> None:
    assert choose("", "").ranges == ((100000, 100000 + PODS),)
    assert choose("", "", "SUB_UID_MIN 200000\nSUB_GID_MIN\t 300000\n").ranges == ((300000, 300000 + PODS),)


def test_a_hole_must_be_free_in_both_files() -> None:
    choice = choose("a:100000:65536\n", "b:165536:65536\n")
    assert choice.subuid_lines == choice.subgid_lines == (f"containers:231072:{PODS}",)


def test_the_lowest_hole_that_fits_is_taken() -> None:
    subuid = "a:100000:10\nb:165546:65536\nc:300000000:65536\n"
    assert choose(subuid, "", count=65536).ranges == ((100010, 165546),)
    assert choose(subuid, "", count=65537).ranges == ((231082, 231082 + 65537),)


def test_a_sufficient_entry_in_both_files_stays_alone() -> None:
    choice = choose(*both(f"containers:500000:{PODS}\n"))
    assert (choice.subuid_lines, choice.subgid_lines, choice.problems) == ((), (), ())
    assert "already" in choice.kept


def test_an_entry_by_the_users_number_counts() -> None:
    text = f"997:500000:{PODS}\n"
    assert choose(*both(text), uid=997).subuid_lines == ()
    assert choose(*both(text)).subuid_lines == (f"containers:{500000 + PODS}:{PODS}",)
    assert choose(f"997:500000:{PODS}\n", "", uid=997).subgid_lines == (f"containers:500000:{PODS}",)


def test_an_entry_in_one_file_only_is_made_the_same_in_the_other() -> None:
    choice = choose("", f"containers:500000:{PODS}\n")
    assert (choice.subuid_lines, choice.subgid_lines) == ((f"containers:500000:{PODS}",), ())


def test_entries_that_differ_are_both_completed() -> None:
    choice = choose("containers:200000:65536\n", "containers:400000:65536\n", count=131072)
    assert choice.subuid_lines == ("containers:400000:65536",)
    assert choice.subgid_lines == ("containers:200000:65536",)
    assert choice.ranges == ((200000, 265536), (400000, 465536))


def test_ids_that_are_somebody_elses_in_the_other_file_are_refused_with_the_line() -> None:
    error = refusal(f"containers:100000:{PODS}\n", "root:0:1\ncesar:100000:65536\n")
    assert error.where == "/etc/subgid line 2"
    assert error.found == "cesar:100000:65536"


def test_several_entries_count_together_as_they_do_for_cri_o() -> None:
    half = PODS // 2
    assert choose(*both(f"containers:100000:{half}\ncontainers:400000000:{half}\n")).subuid_lines == ()


def test_a_small_entry_is_extended_by_the_ids_after_it() -> None:
    choice = choose(*both("containers:100000:1000\n"), count=65536)
    assert choice.subuid_lines == ("containers:101000:64536",)
    assert choice.ranges == ((100000, 165536),)


def test_a_small_entry_with_a_neighbour_gets_whole_pods_elsewhere() -> None:
    choice = choose(*both("containers:100000:65536\ncesar:165536:65536\n"), count=65536 + 1)
    assert choice.subuid_lines == ("containers:231072:65536",)
    assert choice.problems == ()


def test_a_piece_of_a_pod_that_can_not_grow_is_refused() -> None:
    error = refusal(*both("containers:100000:1000\ncesar:101000:65536\n"))
    assert "1000 ids from 100000" in error.found


def test_no_room_is_refused_with_the_limits() -> None:
    limits = "SUB_UID_MIN 100000\nSUB_UID_MAX 200000\n"
    assert "100000 to 200000" in refusal("", "", limits).found
    assert choose("", "", limits, count=100001).ranges == ((100000, 200001),)
    assert "100000 to 200000" in refusal("", "", limits, count=100002).found
    assert refusal("", "", "SUB_UID_MIN 10\nSUB_UID_MAX 5\n", count=1).where == "/etc/login.defs"


def test_the_last_id_of_all_is_never_given() -> None:
    wide = "SUB_UID_MAX 4294967295\nSUB_GID_MAX 0xFFFFFFFF\nSUB_UID_MIN 4294901759\n"
    assert choose("", "", wide, count=65536).ranges == ((4294901759, 4294967295),)
    refusal("", "", wide, count=65537)


def test_login_defs_is_read_as_shadow_reads_it() -> None:
    text = "#SUB_UID_MIN 1\nSUB_UID_MIN 500\n  SUB_UID_MIN\t0x40000  \nUSERGROUPS_ENAB yes\nSUB_UID_COUNT 65536\n"
    assert choose("", "", text, count=1).ranges == ((262144, 262145),)
    error = refusal("", "", "UMASK 022\nSUB_GID_MAX lots\n")
    assert (error.where, error.found) == ("/etc/login.defs line 2", "'SUB_GID_MAX lots'")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("cesar:100000", "2 fields"),
        ("cesar:100000:65536:7", "4 fields"),
        (":100000:65536", "USER:START:COUNT"),
        ("cesar:x:65536", "USER:START:COUNT"),
        ("cesar:-1:65536", "USER:START:COUNT"),
        ("cesar:100000:", "USER:START:COUNT"),
        ("cesar:0100000:65536", "alike"),
        ("cesar:0x10000:65536", "alike"),
        ("cesar:4294967290:65536", "past the last id"),
        (" cesar:100000:65536", "white space"),
        ("cesar:100000:65536\r", "white space"),
    ],
)
def test_a_malformed_line_is_reported_with_its_number(line: str, why: str) -> None:
    text = f"# ours\n\nfirst:70000:1\n{line}\n"
    choice = choose(text, "")
    (problem,) = choice.problems
    assert problem.startswith("/etc/subuid line 4: ")
    assert why in problem
    assert append(text, choice.subuid_lines).startswith(text)


def test_ids_that_some_program_may_read_from_a_malformed_line_are_not_given_away() -> None:
    assert choose("a:0x186A0:65536\n", "", count=1).ranges == ((165536, 165537),)
    assert "are free" in refusal("a:100000:4294967295\n", "", count=1).what


def test_ids_shared_with_another_user_are_reported_and_stay() -> None:
    choice = choose(*both(f"containers:100000:{PODS}\ncesar:165536:65536\n"))
    assert choice.subuid_lines == ()
    assert [p.split(":")[0] for p in choice.problems] == ["/etc/subuid line 1", "/etc/subgid line 1"]


def test_the_hosts_root_among_the_ids_is_reported() -> None:
    assert "host's root" in choose(*both(f"containers:0:{PODS}\n")).problems[0]


def test_torn_pods_are_reported_where_the_ids_suffice() -> None:
    choice = choose(*both(f"containers:100000:1000\ncontainers:300000:{PODS}\n"))
    assert choice.subuid_lines == ()
    assert "two places" in choice.problems[0]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "x:1:2\n"),
        ("a:1:1", "a:1:1\nx:1:2\n"),
        ("a:1:1\n", "a:1:1\nx:1:2\n"),
        ("a:1:1\r\n", "a:1:1\r\nx:1:2\n"),
        ("a:1:1\r", "a:1:1\r\nx:1:2\n"),
    ],
)
def test_lines_are_appended_as_lines_of_their_own(text: str, wanted: str) -> None:
    assert append(text, ["x:1:2"]) == wanted
    assert append(text, []) == text


names = st.sampled_from(["root", "cesar", "1000", USER])
entries = st.builds(
    lambda owner, start, count: f"{owner}:{start}:{count}",
    names, st.integers(0, 2**20), st.integers(0, 2**18),
)  # fmt: skip
junk = st.text(st.characters(exclude_characters="\n"), max_size=12)
files = st.builds(
    lambda lines, end: "\n".join(lines) + end, st.lists(entries | junk, max_size=8), st.sampled_from(["", "\n"])
)
counts = st.integers(1, 2**18)


def ids(lines: Iterable[str], owners: str = ".+") -> list[range]:
    """The ids in the well-formed ones among the lines."""
    found = (re.fullmatch(rf"({owners}):(0|[1-9][0-9]*):(0|[1-9][0-9]*)", line) for line in lines)
    return [range(int(f[2]), int(f[2]) + int(f[3])) for f in found if f]


def are_free(wanted: list[range], taken: list[range]) -> bool:
    return not any(max(w.start, t.start) < min(w.stop, t.stop) for w in wanted for t in taken)


def edges(ranges: list[range]) -> set[int]:
    """Where the ids begin or end: equal for equal sets of ids."""

    def inside(one: int) -> bool:
        return any(one in r for r in ranges)

    return {e for r in ranges for e in (r.start, r.stop) if inside(e) != inside(e - 1)}


@given(files, files, counts)
def test_the_added_ids_overlap_nobodys_are_the_same_in_both_and_suffice(uids: str, gids: str, count: int) -> None:
    try:
        choice = choose(uids, gids, count=count)
    except RefusedError as error:
        assert error.remedy
        return
    uids_after, gids_after = append(uids, choice.subuid_lines), append(gids, choice.subgid_lines)
    assert uids_after.startswith(uids)
    assert gids_after.startswith(gids)
    was_uids, was_gids = ids(uids.split("\n")), ids(gids.split("\n"))
    assert are_free(ids(choice.subuid_lines), was_uids)
    assert are_free(ids(choice.subgid_lines), was_gids)
    assert are_free(ids(set(choice.subuid_lines) & set(choice.subgid_lines)), was_uids + was_gids)
    assert sum(end - start for start, end in choice.ranges) >= count
    assert edges(ids(uids_after.split("\n"), USER)) == edges(ids(gids_after.split("\n"), USER))
    again = choose(uids_after, gids_after, count=count)
    assert (again.subuid_lines, again.subgid_lines, again.ranges) == ((), (), choice.ranges)


@given(st.lists(entries, max_size=8), counts)
def test_with_clean_files_the_new_range_lies_within_the_limits(lines: list[str], count: int) -> None:
    text = "\n".join(lines)
    assume(USER not in text)
    choice = choose(text, text, "SUB_UID_MIN 65536\n", count=count)
    ((start, end),) = choice.ranges
    assert 100000 <= start < end <= 600100001
    assert end - start == count


@given(st.binary(max_size=60).map(lambda b: b.decode("utf-8", "surrogateescape")), files)
def test_no_text_gives_a_traceback(junk_text: str, text: str) -> None:
    for uids, gids, defs in itertools.permutations((junk_text, text, "SUB_UID_MIN 7\n" + junk_text)):
        try:
            choice = choose(uids, gids, defs, count=10)
            assert append(uids, choice.subuid_lines).startswith(uids)
        except RefusedError as error:
            assert error.where
