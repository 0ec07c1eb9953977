"""Settings of protocols checked by a table of rules."""

from __future__ import annotations

from collections.abc import Mapping

from evaltk.errors import SettingsError


def check(protocol: str, settings: object, rules: Mapping[str, tuple[bool, str]]) -> None:
    """Check the settings of a protocol.

    Args:
        rules: {name of a setting: (whether its value is wrong, what is wanted)}.

    Raises: SettingsError: the first that is wrong, with its flag.
    """
    for name, (wrong, wanted) in rules.items():
        if wrong:
            raise refusal(protocol, name, wanted, getattr(settings, name))


def refusal(protocol: str, name: str, wanted: str, got: object) -> SettingsError:
    """The error about one setting, for what is only known later."""
    flag = f"--{protocol}.{name.replace('_', '-')}"
    return SettingsError(wanted=wanted, got=str(got), where=flag, do="change the value, or leave the flag out")
