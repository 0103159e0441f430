"""`--config FILE.yaml`: values between a command's defaults and its flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict
from pydantic import BaseModel

from diffrep.errors import InputError, UsageError, nearest

OPTION = "--config"


class ConfigFile:
    """A source of values for cyclopts: the file that `--config` names, if it is given.

    Keys are the names of the command's settings, as in a run folder's config.yaml; flags win over them.
    """

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Fill in what the command line left open.

        Errors:
            InputError: no such file, or not a YAML mapping. UsageError: a key that the command does not know.
        """
        option = next((argument for argument in arguments if OPTION in argument.names and argument.tokens), None)
        settings = next((argument for argument in arguments if _is_config(argument.hint)), None)
        if option is None or settings is None:
            return
        path = Path(option.tokens[0].value)
        values = read_yaml(path)
        flags = {argument.keys[-1]: argument for argument in settings.children}
        for key in values:
            if key not in flags:
                raise UsageError(f'unknown key "{key}" in {path}', nearest(key, flags))
        left_open = {k: v for k, v in values.items() if v is not None and not flags[k].tokens}
        Dict(left_open, source=str(path), use_commands_as_keys=False)(app, commands, arguments)


def _is_config(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file, read safely.

    Errors:
        InputError: no such file. UsageError: not YAML, or no mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the config {path}", str(getattr(error, "strerror", None) or error)) from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no mapping", "expected lines such as  steps: 1000")
    return {str(key): value for key, value in values.items()}
