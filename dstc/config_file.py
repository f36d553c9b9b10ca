"""Options from a file (`--config run.yaml`) and from the environment (`DSTC_SEED=7`).

What is typed wins, then the environment, then the file, then the default.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from typer.core import TyperCommand, TyperOption

from dstc.errors import SettingsError

_NOT_GIVEN = ("", "null", "~")


class Configurable(TyperCommand):
    """A command whose options may also be given as variables: `--rows-per-shard` as
    DSTC_ROWS_PER_SHARD. Values of an option that repeats are parted by spaces."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name, parameter in _parameters(self).items():
            if isinstance(parameter, TyperOption) and name != "config":
                parameter.envvar = f"DSTC_{name.upper()}"
                parameter.show_envvar = False  # one rule for all; --config's help has it


def _parameters(command: Any) -> dict[str, Any]:
    """The parameters of a command, by the name that a user types: `rows_per_shard`, `set`."""
    named = {}
    for parameter in command.params:
        typed = max(parameter.opts, key=len).lstrip("-").replace("-", "_")
        if typed != "help":
            named[typed] = parameter
    return named


def _read(context: typer.Context, file: str | None) -> str | None:
    if file is None or context.resilient_parsing:
        return file
    place = f"--config {file}"
    try:
        # All scalars stay text, which options read as if it were typed: `compile: no` is no False.
        found = yaml.load(Path(file).read_text("utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise SettingsError(f"{place}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{place}: not UTF-8 text; expected YAML") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise SettingsError(f"{place}{where}: no YAML ({problem})") from error
    found = {} if found in (None, "") else found
    if not isinstance(found, dict):
        raise SettingsError(f"{place}: found a {_kind(found)}; expected lines of OPTION: VALUE")
    parameters = _parameters(context.command)
    given = {}
    for key, value in found.items():
        name = str(key).removeprefix("--").replace("-", "_")
        parameter = parameters.get(name)
        if parameter is None or name == "config":
            near = difflib.get_close_matches(name, parameters, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            known = ", ".join(sorted(parameters.keys() - {"config"}))
            raise SettingsError(f"{place}: unknown option {key!r}; {hint}expected one of {known}")
        if value not in _NOT_GIVEN:
            given[parameter.name] = _value(value, parameter, f"{place}: {key}")
    context.default_map = {**(context.default_map or {}), **given}
    return file


def _value(value: Any, parameter: Any, place: str) -> Any:
    """A value of the file as the option wants it: text, or a list of texts where it repeats."""
    if isinstance(value, str):
        return [value] if parameter.multiple else value
    if parameter.multiple and isinstance(value, dict):
        value = [f"{name}={_scalar(part, place)}" for name, part in value.items()]
    if parameter.multiple and isinstance(value, list):
        return [_scalar(part, place) for part in value]
    raise SettingsError(f"{place}: found a {_kind(value)}; expected one value")


def _scalar(value: Any, place: str) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    if not isinstance(value, str):
        raise SettingsError(f"{place}: found a {_kind(value)} inside; expected text and numbers")
    return value


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {dict: "mapping", list: "list", str: "text"}
    return kinds[type(value)]


Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE.yaml",
        help="Options by name, for those not given here nor as DSTC_NAME.",
        is_eager=True,
        callback=_read,
    ),
]
