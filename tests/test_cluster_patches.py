import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.cluster import names, patches, taints, view
from installer.cluster.taints import Effect, Taint
from installer.errors import RefusedError
from tests import mock_api

KEYS = st.sampled_from(["sysbox-runtime", "example.com/pool", "node.kubernetes.io/unschedulable", "a"])
VALUES = st.sampled_from(["", "x", "not-running", "1.2_3"])
TAINTS = st.builds(Taint, KEYS, VALUES, st.sampled_from(Effect))
TEXTS = st.dictionaries(KEYS, VALUES)
WANTED = st.dictionaries(KEYS, st.none() | VALUES)


def a_view(*present: Taint, unschedulable: bool = False, cordoned_by_us: bool = False) -> view.NodeView:
    content = mock_api.ready_node()
    content["spec"]["taints"] = [as_api(one) for one in present]
    content["spec"]["unschedulable"] = unschedulable
    if cordoned_by_us:
        content["metadata"]["annotations"][names.CORDONED] = "true"
    return view.node(content)


def as_api(taint: Taint) -> dict[str, str]:
    return {
        "key": taint.key,
        "value": taint.value,
        "effect": str(taint.effect),
        "timeAdded": "2026-11-22T07:26:18Z",
    }


def patch(
    seen: view.NodeView, *, add: Taint | None = None, remove: Taint | None = None, cordon: bool | None = None
) -> patches.Json:
    return patches.of_node(seen, labels={}, annotations={}, add_taint=add, remove_taint=remove, cordon=cordon)


@given(st.lists(TAINTS, unique_by=lambda one: (one.key, one.effect)), TAINTS)
def test_another_taint_is_never_lost(present: list[Taint], ours: Taint) -> None:
    seen = a_view(*present)
    foreign = [as_api(one) for one in present if one != ours]
    try:
        added = patch(seen, add=ours).get("spec", {}).get("taints", seen.taints)
    except RefusedError:
        assert (ours.key, ours.effect) in [(one.key, one.effect) for one in present if one != ours]
    else:
        assert [one for one in added if one in foreign] == foreign
        assert len(added) == len(foreign) + 1
    removed = patch(seen, remove=ours).get("spec", {"taints": seen.taints})["taints"]
    assert list(removed or []) == foreign


@given(st.lists(TAINTS, unique_by=lambda one: (one.key, one.effect)), TAINTS)
def test_what_is_so_already_needs_no_request(present: list[Taint], ours: Taint) -> None:
    others = [one for one in present if (one.key, one.effect) != (ours.key, ours.effect)]
    assert patch(a_view(*others, ours), add=ours) == {}
    assert patch(a_view(*others), remove=ours) == {}


def test_a_change_of_taints_names_the_version_that_it_is_based_on() -> None:
    changed = patch(a_view(), add=Taint("a", "b", Effect.NO_SCHEDULE))
    assert changed["metadata"] == {"resourceVersion": "1000"}


def test_the_last_taint_leaves_no_empty_list() -> None:
    ours = taints.parse(taints.DEFAULT)
    assert patch(a_view(ours), remove=ours)["spec"] == {"taints": None}


def test_anothers_taint_in_our_place_is_refused_by_name() -> None:
    with pytest.raises(RefusedError) as caught:
        patch(a_view(taints.parse("pool=gpu:NoSchedule")), add=taints.parse("pool=sysbox:NoSchedule"))
    assert caught.value.found == "pool=gpu:NoSchedule"
    assert "kubectl taint node worker-1 pool:NoSchedule-" in caught.value.remedy


def test_our_cordon_is_recorded_and_lifted() -> None:
    ours = patch(a_view(), cordon=True)
    assert ours["spec"] == {"unschedulable": True}
    assert ours["metadata"]["annotations"] == {names.CORDONED: "true"}
    lifted = patch(a_view(unschedulable=True, cordoned_by_us=True), cordon=False)
    assert lifted["spec"] == {"unschedulable": None}
    assert lifted["metadata"]["annotations"] == {names.CORDONED: None}


def test_an_administrators_cordon_stays() -> None:
    seen = a_view(unschedulable=True)
    assert patch(seen, cordon=True) == {}
    assert patch(seen, cordon=False) == {}


def test_an_administrators_uncordon_leaves_only_our_record_to_remove() -> None:
    seen = a_view(cordoned_by_us=True)
    assert patch(seen, cordon=False) == {"metadata": {"annotations": {names.CORDONED: None}}}


@given(TEXTS, WANTED, TEXTS, WANTED)
def test_a_patch_makes_it_so_and_then_there_is_nothing_to_do(
    labels: dict[str, str], wanted: dict[str, str | None], notes: dict[str, str], more: dict[str, str | None]
) -> None:
    def changes(content: mock_api.Json) -> mock_api.Json:
        seen = view.node(content)
        return patches.of_node(seen, labels=wanted, annotations=more, add_taint=None, remove_taint=None, cordon=None)

    before = mock_api.ready_node()
    before["metadata"] |= {"labels": labels, "annotations": notes}
    after = mock_api.merged(before, changes(before))
    for old, new, asked in ((labels, "labels", wanted), (notes, "annotations", more)):
        expected = {key: value for key, value in {**old, **asked}.items() if value is not None}
        assert after["metadata"][new] == expected
    assert changes(after) == {}
