"""Settings of protocols checked by a table of rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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


def stated(settings: Any) -> dict[str, Any]:
    """The settings as results have them: those that a later version added (metadata ``later``) only where they are set,
    so that results of before stay done.
    """
    later = {f.name: f.default for f in dataclasses.fields(settings) if f.metadata.get("later")}
    return {k: v for k, v in dataclasses.asdict(settings).items() if k not in later or v != later[k]}


def refusal(protocol: str, name: str, wanted: str, got: object) -> SettingsError:
    """The error about one setting, for what is only known later."""
    flag = f"--{protocol}.{name.replace('_', '-')}"
    return SettingsError(wanted=wanted, got=str(got), where=flag, do="change the value, or leave the flag out")
