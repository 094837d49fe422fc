"""How a Python function becomes a command of `emoji-ldm`: the options that all commands share, and their exit status.

Every command takes `--debug` and `--help`. A command that reads a configuration also takes `-c/--config`, `--dry-run`
and overrides such as `train.lr=1e-4`, which may stand anywhere among its words. Both decorators below build the
signature from which Typer makes the parser, so that common options have the same names and meanings everywhere.
"""

import difflib
import functools
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from emoji_ldm.errors import ConfigError, EmojiLdmError
from ray_jobs.cli.field_help import command_with_fields

if TYPE_CHECKING:  # the configuration loads pydantic, which `--help` must not wait for
    from emoji_ldm.config import Config

# Letters and underscores only: a prompt such as "2+2=4" or "a cat, mood=happy" is not an override.
OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.[\w-]+)*=.*", re.DOTALL)  # keys of serve.models have digits and dashes
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m|↳")  # and the arrow that deltalake prints before an error's cause
WORDS = "section.field=value"
INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + SIGINT and 128 + SIGPIPE, as a shell reports them

Debug = Annotated[bool, typer.Option("--debug", help="On an error, print the stack trace too.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigSource = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="PRESET|FILE", help="Preset name or YAML file to start from."),
]
Function = Callable[..., int | None]
Prepare = Callable[["Config", list[str]], "Config"]


@dataclass(frozen=True)
class Shortcut:
    """An option that stands for an override, such as `--retry failed` for `crawl.retry=failed`."""

    name: str  # of the option, without dashes
    override: str  # `{}` takes the option's value; without it the option is a flag
    help: str
    metavar: str = ""

    def parameter(self) -> inspect.Parameter:
        """Return the option as a parameter of a command's function."""
        option = typer.Option(f"--{self.name}", help=self.help, metavar=self.metavar or None, show_default=False)
        # An option with a value is None if it was not given, a flag is False; `_shortcut_overrides` skips both.
        if "{}" in self.override:
            return _parameter(self.name.replace("-", "_"), Annotated[str | None, option], None)
        return _parameter(self.name.replace("-", "_"), Annotated[bool, option], False)


AS_OF = Shortcut(
    "as-of", "as_of={}", "Read the tables as they were then: a tag, branch, time (UTC) or TABLE@VERSION.", "POINT"
)


def new_app(text: str = "", short: str = "") -> typer.Typer:
    """Return a group of commands; plain help texts, since examples must keep their line breaks.

    Args:
        text: What its own help begins with.
        short: Its line in the list of all commands, which cuts what is longer.
    """
    # Tracebacks stay plain too, because rich ones show local variables, which may hold credentials.
    return typer.Typer(
        help=text,
        short_help=short or None,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def command(app: typer.Typer, name: str, *, examples: Iterable[str], **settings: Any) -> Callable[[Function], Function]:
    """Register a command that reads no configuration; its docstring is the help text.

    Args:
        app: The group it belongs to.
        name: What is typed.
        examples: Complete command lines for the end of the help text.
        settings: Passed on to `typer.Typer.command`.
    """

    def register(function: Function) -> Function:
        def call(debug: bool, **options: Any) -> int:
            return run_command(functools.partial(function, **options), debug=debug)

        own = list(inspect.signature(function).parameters.values())
        _add(app, name, _sign(call, function, own), examples, settings)
        return function

    return register


def configured(
    app: typer.Typer,
    name: str,
    *,
    examples: Iterable[str],
    words: str = "",
    prepare: Prepare | None = None,
    shortcuts: Iterable[Shortcut] = (),
) -> Callable[[Function], Function]:
    """Register a command whose function takes `(config, words, **options)`; its docstring is the help text.

    Args:
        app: The group it belongs to.
        name: What is typed.
        examples: Complete command lines for the end of the help text.
        words: What the help text calls words that are no overrides; empty refuses them.
        prepare: Checks the words, and may change the configuration by them, also in a dry run.
        shortcuts: Options that stand for overrides; they win over overrides.
    """
    # An iterator would be used up by the signature below, and the command would then see no shortcuts.
    shortcuts = tuple(shortcuts)
    prepare = prepare or (functools.partial(_refuse_words, name) if not words else _keep_config)

    def register(function: Function) -> Function:
        def call(words: list[str] | None, config: str | None, dry_run: bool, debug: bool, **options: Any) -> int:
            def act() -> int | None:
                # Later overrides win, so shortcuts come last. A dry run checks the words too: it must not accept a
                # command line that the real run refuses.
                plain, overrides = split_words(words or [])
                overrides += _shortcut_overrides(shortcuts, options)
                resolved = prepare(_load(config or _default_preset(name), overrides), plain)
                if dry_run:
                    sys.stdout.write(resolved.to_yaml())
                    return 0
                return function(resolved, plain, **options)

            return run_command(act, debug=debug)

        # Typer sees words and common options instead of `config` and `words`, which the wrapper provides.
        own = [one for one in inspect.signature(function).parameters.values() if one.name not in ("config", "words")]
        argument = typer.Argument(
            metavar=" | ".join(filter(None, [words, WORDS])),
            help="Any configuration field, such as store=s3://bucket/prefix; the fields are listed below.",
            show_default=False,
        )
        parameters = [
            _parameter("words", Annotated[list[str] | None, argument], None),
            *(shortcut.parameter() for shortcut in shortcuts),
            *own,
            _parameter("config", ConfigSource, None),
            _parameter("dry_run", DryRun, False),
        ]
        _add(app, name, _sign(call, function, parameters), examples, {"cls": command_with_fields(name)})
        return function

    return register


def run_command(function: Callable[[], int | None], *, debug: bool) -> int:
    """Call it and turn what it raises into one line on standard error and an exit status.

    Errors that are meant for the user are one line; any other exception is a defect and keeps its stack trace.
    """
    try:
        return function() or 0
    except EmojiLdmError as error:
        if debug:
            traceback.print_exc()
        print_error(str(error))
        return _end(error)
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        sys.stderr.write("\nstopped; what was committed is safe: run the same command again to go on\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes its streams while it exits, and would complain about the closed pipe on standard error.
        sys.stderr.close()
        return BROKEN_PIPE


def _end(error: EmojiLdmError) -> int:
    """The exit status for an error; a job on Kubernetes that would fail again in the same way is stopped before."""
    if not error.may_pass:
        from ray_jobs.cli.job_retries import stop_own_job

        # Ray stops the job by SIGTERM, which `main` makes a KeyboardInterrupt. That is the end that was asked for.
        with suppress(KeyboardInterrupt):
            stop_own_job()
    return error.exit_code


def parse_words(context: typer.Context, words: list[str]) -> typer.Context:
    """Parse a command line without running it, below the context of any running command.

    Returns:
        The context of the command: its name, and the values of its options in `params`.

    Raises:
        TyperException: The command line cannot be understood.
        ConfigError: A group is named, but none of its commands.
    """
    parent = context.find_root()
    group = parent.command
    # Click parses a command only when it runs it. These are its own steps, one level of commands after the other.
    while isinstance(group, TyperGroup):
        name, found, words = group.resolve_command(parent, words)
        if not isinstance(found, TyperGroup):
            assert found is not None, "resolve_command raises for an unknown command"
            return cast(typer.Context, found.make_context(name, list(words), parent=parent))
        if not words:
            raise ConfigError(f"{name} needs a command; see: emoji-ldm {name} --help")
        group = found
    raise AssertionError("the root is a group")


def print_error(text: str) -> None:
    """Write an error as one line: libraries write paragraphs, in colours."""
    # Whitespace is collapsed too: an error message of several lines could not be found by a search in a log.
    sys.stderr.write(f"error: {' '.join(ANSI_COLOUR.sub('', text).split())}\n")


def split_words(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return plain words, and words that are overrides."""
    plain, overrides = list[str](), list[str]()
    for word in words:
        (overrides if OVERRIDE.fullmatch(word) else plain).append(word)
    return plain, overrides


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message that names the nearest known word; empty if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_word(words: Sequence[str], rule: str) -> str:
    """Return the only word; ConfigError says the rule otherwise."""
    if len(words) != 1:
        raise ConfigError(f"{rule}, not {' '.join(words) or 'none'}")
    return words[0]


def _load(source: str | None, overrides: list[str]) -> "Config":
    from emoji_ldm.config import load

    return load(source, overrides)


def _default_preset(name: str) -> str | None:
    return "demo" if name == "demo" else None


def _shortcut_overrides(shortcuts: Iterable[Shortcut], options: dict[str, Any]) -> list[str]:
    """Take the shortcuts out of the options; returns the overrides that they stand for."""
    # They are popped, since the function of the command has no parameters for them.
    given = [(shortcut, options.pop(shortcut.name.replace("-", "_"))) for shortcut in shortcuts]
    return [shortcut.override.format(value) for shortcut, value in given if value not in (None, False)]


def _keep_config(config: "Config", words: list[str]) -> "Config":
    return config


def _refuse_words(name: str, config: "Config", words: list[str]) -> "Config":
    if words:
        raise ConfigError(f"{name} does not take {words[0]!r}; options are written as section.field=value")
    return config


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _sign(call: Callable[..., int], function: Function, own: list[inspect.Parameter]) -> Callable[..., int]:
    """Give `call` the help text of `function`, and the signature from which Typer makes the parser."""
    # Keyword-only, because Typer calls with keywords, and parameters without a default may then follow others.
    options = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    parameters = [*options, _parameter("debug", Debug, False)]
    call.__doc__, call.__name__ = function.__doc__, function.__name__
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect.signature reads it
    return call


def _add(
    app: typer.Typer, name: str, call: Callable[..., int], examples: Iterable[str], settings: Mapping[str, Any]
) -> None:
    # Click rewraps an epilog unless its paragraph begins with \b.
    epilog = "\b\nexamples:\n" + "\n".join(f"  {line}" for line in examples)
    text = inspect.getdoc(call) or ""
    summary = re.split("[:;]", text)[0].rstrip(".")  # what the list of commands has room for
    app.command(name, epilog=epilog, help=text, short_help=summary, **settings)(call)
