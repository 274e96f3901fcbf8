"""The taint that keeps pods off a node while it is not ready, as upstream's SYSBOX_TAINT spells it."""

import re
from dataclasses import dataclass
from enum import StrEnum

from installer.errors import SettingsError

DEFAULT = "sysbox-runtime=not-running:NoSchedule"

_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_WORD_CHARACTERS = 63
_WORD_RULE = "of up to 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
_DOMAIN_CHARACTERS = 253


class Effect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


@dataclass(frozen=True)
class Taint:
    """One taint. Kubernetes allows one value for each key and effect."""

    key: str
    value: str
    effect: Effect

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


def parse(text: str, where: str = "SYSBOX_TAINT") -> Taint:
    """The taint that `key=value:Effect` (or `key:Effect`) names.

    `where` is the setting's name, for the error. Raises SettingsError by Kubernetes' own rules for taints.
    """
    head, colon, effect = text.strip().rpartition(":")
    key, _, value = head.partition("=")
    problem = _problem(key, value, effect) if colon else "it has no effect"
    if problem:
        raise SettingsError(
            f"{where} is not a taint: {problem}",
            where=where,
            found=text,
            remedy=f"write it as key=value:Effect, such as {DEFAULT}; effects are {', '.join(Effect)}",
        )
    return Taint(key, value, Effect(effect))


def _problem(key: str, value: str, effect: str) -> str:
    domain, slash, word = key.rpartition("/")
    if slash and not (_DOMAIN.fullmatch(domain) and len(domain) <= _DOMAIN_CHARACTERS):
        return f"the key's prefix {domain!r} is not a DNS name in lower case"
    if not _is_word(word):
        return f"the key {word!r} is not a name {_WORD_RULE}"
    if value and not _is_word(value):
        return f"the value {value!r} is not a name {_WORD_RULE}"
    if effect not in list(Effect):
        return f"there is no effect {effect!r}"
    return ""


def _is_word(text: str) -> bool:
    return len(text) <= _WORD_CHARACTERS and _WORD.fullmatch(text) is not None
