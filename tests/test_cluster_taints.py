import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.cluster import taints
from installer.cluster.taints import Effect, Taint
from installer.errors import SettingsError

KEYS = st.sampled_from(["sysbox-runtime", "example.com/pool", "a"])
VALUES = st.sampled_from(["", "x", "not-running", "1.2_3"])


def test_the_default_is_upstreams() -> None:
    assert taints.parse(taints.DEFAULT) == Taint("sysbox-runtime", "not-running", Effect.NO_SCHEDULE)


@pytest.mark.parametrize(
    "text",
    [
        "a=b:NoSchedule",
        "a:NoExecute",
        "example.com/a.b_c-d=1:PreferNoSchedule",
        "A=:NoSchedule",
        " a=b:NoSchedule\n",
    ],
)
def test_what_kubectl_taint_takes_is_taken(text: str) -> None:
    taints.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no effect"),
        ("a=b", "no effect"),
        ("a=b:", "no effect ''"),
        ("a=b:noschedule", "no effect 'noschedule'"),
        ("=b:NoSchedule", "key ''"),
        ("-a=b:NoSchedule", "key '-a'"),
        ("a b=c:NoSchedule", "key 'a b'"),
        ("/a=b:NoSchedule", "prefix ''"),
        ("Example.com/a=b:NoSchedule", "prefix 'Example.com'"),
        ("a/b/c=d:NoSchedule", "prefix 'a/b'"),
        ("a=b=c:NoSchedule", "value 'b=c'"),
        ("a=b-:NoSchedule", "value 'b-'"),
        ("a=b:NoSchedule:NoExecute", "value 'b:NoSchedule'"),
        (f"{'a' * 64}=b:NoSchedule", "up to 63"),
        (f"a={'b' * 64}:NoSchedule", "up to 63"),
        (f"{'a' * 254}/b=c:NoSchedule", "prefix"),
        ("a=b:NoSchedule,c=d:NoSchedule", "value"),
    ],
)
def test_a_bad_taint_is_named_with_a_remedy(text: str, why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        taints.parse(text)
    assert why in caught.value.what
    assert (caught.value.where, caught.value.found) == ("SYSBOX_TAINT", text)
    assert taints.DEFAULT in caught.value.remedy


@given(st.builds(Taint, KEYS, VALUES, st.sampled_from(Effect)))
def test_a_taint_reads_back_as_it_is_written(taint: Taint) -> None:
    assert taints.parse(str(taint)) == taint
