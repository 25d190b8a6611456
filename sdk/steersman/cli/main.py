"""`steer`: Steersman's command line.

Commands live in modules that are imported when they are called, so that `steer` itself starts quickly; other
distributions add commands through the entry-point group `steersman.commands` (the lab does).
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from steersman.cli.session import Session

# command -> module; the attribute has the command's name with _ for -, and a trailing _ where Python claims the name
COMMANDS = {
    "get": "read",
    "describe": "read",
    "events": "read",
    "diff": "past",
    "history": "past",
    "api-resources": "read",
    "apply": "write",
    "create": "write",
    "delete": "write",
    "patch": "write",
    "label": "write",
    "annotate": "write",
    "edit": "write",
    "scale": "workloads",
    "set": "workloads",
    "rollout": "workloads",
    "wait": "waiting",
    "logs": "streams",
    "exec": "streams",
    "cordon": "nodes",
    "uncordon": "nodes",
    "drain": "nodes",
    "taint": "nodes",
    "cluster": "cluster",
    "token": "cluster",
    "version": "cluster",
}


class Commands(click.Group):
    """Finds commands in their modules and in entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted({*COMMANDS, *(point.name for point in entry_points(group="steersman.commands"))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name in COMMANDS:
            module = importlib.import_module(f"steersman.cli.{COMMANDS[cmd_name]}")
            name = cmd_name.replace("-", "_")
            found: Any = getattr(module, name, None) or getattr(module, f"{name}_")
            return found  # type: ignore[no-any-return]
        for point in entry_points(group="steersman.commands", name=cmd_name):
            plugin: Any = point.load()
            return plugin  # type: ignore[no-any-return]
        return None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("-n", "--namespace", default="", help="Namespace of the objects; the configuration's when not given.")
@click.option("--cluster", default="", help="Cluster in the configuration file; the current one when not given.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Configuration file instead of ~/.steersman/config.yaml."
)
@click.option("--request-timeout", default="30", show_default=True, help="How long one request may take: 5, 30s, 2m.")
@click.pass_context
def steer(ctx: click.Context, namespace: str, cluster: str, config: Path | None, request_timeout: str) -> None:
    """Steersman: a small, fast, readable Kubernetes."""
    ctx.obj = Session(cluster=cluster, namespace=namespace, config=config, timeout=_seconds(request_timeout))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        from steersman.cli.streams import seconds_of  # noqa: PLC0415 - most command lines name a number, or nothing

        seconds = float(seconds_of(text))
    if not seconds > 0:
        raise click.BadParameter(f"{text!r} is no time: write 5, 30s or 2m", param_hint="--request-timeout")
    return seconds


def main() -> None:
    """Run a command line; errors are one sentence on standard error and exit code 1, misuse is exit code 2."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own log of failed handshakes; the error says the same once
    try:
        code = steer.main(args=_global_options_first(sys.argv[1:]), prog_name="steer", standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        code = 141
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = _told(error)
    sys.exit(code if isinstance(code, int) else 0)


def _told(error: Exception) -> int:
    from steersman.config import ConfigError  # noqa: PLC0415 - not needed unless something failed
    from steersman.errors import ApiError  # noqa: PLC0415

    if isinstance(error, ApiError):
        click.echo(f"Error from server ({error.reason}): {error.message}", err=True)
    elif isinstance(error, ConfigError | OSError | ValueError | TimeoutError):
        click.echo(f"error: {error}", err=True)
    else:
        raise error
    return 1


_WITH_VALUE = ("-n", "--namespace", "--cluster", "--config", "--request-timeout")


def _global_options_first(arguments: list[str]) -> list[str]:
    """Let global options stand anywhere before `--`, as users of kubectl write them (`steer get pods -n kube-system`)."""
    first: list[str] = []
    rest: list[str] = []
    items = iter(arguments)
    for item in items:
        if item == "--" or (item == "lab" and not rest):  # what follows is another program's, or has options of its own
            rest += [item, *items]
        elif item in _WITH_VALUE:
            first += [item, *([value] if (value := next(items, None)) is not None else [])]
        elif item.startswith(tuple(f"{option}=" for option in _WITH_VALUE if option.startswith("--"))):
            first.append(item)
        else:
            rest.append(item)
    return first + rest


if __name__ == "__main__":
    main()
