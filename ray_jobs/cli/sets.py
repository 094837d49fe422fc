"""The commands of `emoji-ldm sets`, a client of a running service: options and examples.

`emoji_ldm.serve.bulk.set_commands` holds what they do. The configuration says only where the service listens.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ray_jobs.cli.command import AsJson, configured, new_app, one_word

if TYPE_CHECKING:
    from emoji_ldm.config import Config
    from emoji_ldm.serve.bulk.set_client import EmojiSetClient

# The key has no option, because the arguments of a process can be read by all users of a machine.
URL_VARIABLE, KEY_VARIABLE = "EMOJI_LDM_URL", "EMOJI_LDM_API_KEY"
HELP = (
    f"Sets of emoji, drawn in bulk by a running service (emoji-ldm serve). The environment variable {URL_VARIABLE} may "
    f"name the service, {KEY_VARIABLE} holds your key."
)
Url = Annotated[
    str,
    typer.Option(help=f"Address of the service; by default ${URL_VARIABLE}, or that of serve.host and serve.port."),
]

app = new_app(HELP, "Draw sets of emoji in bulk with a running service")
set_command = functools.partial(configured, app)


@set_command(
    "create",
    words="prompt",
    examples=[
        "emoji-ldm sets create 'a happy blob' 'a sad cat' -n 4 --wait",
        "emoji-ldm sets create --file prompts.txt --style '{prompt}, flat' --style '{prompt}, 3d' --steps 20",
        "emoji-ldm sets create --file lines.jsonl --seed 7 --wait --fetch ./emoji",
        '  (a line: {"custom_id": "a1", "prompt": "a cat", "n": 2, "steps": 30})',
    ],
)
def create(  # noqa: PLR0913  # one parameter per option
    config: "Config",
    words: list[str],
    file: Annotated[str, typer.Option(help="prompts.txt with a prompt per line, or lines.jsonl.")] = "",
    n: Annotated[int | None, typer.Option("-n", metavar="N", help="Images per prompt (and style).")] = None,
    style: Annotated[
        list[str] | None,
        typer.Option(metavar="TEMPLATE", help="Such as '{prompt}, flat style'; may be given several times."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for your own use.")] = None,
    seed: Annotated[int | None, typer.Option(help="First seed; random by default.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance; 1 turns it off.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Sampler, of those that the model lists.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to steer away from.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Size of the images in pixels.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model; the service's first by default.")] = None,
    lora: Annotated[str | None, typer.Option(help="Name of a LoRA adapter.")] = None,
    quality: Annotated[str | None, typer.Option(help="low, medium or high, which stand for numbers of steps.")] = None,
    output_format: Annotated[str | None, typer.Option(help="png, webp or jpeg.")] = None,
    output_compression: Annotated[
        int | None, typer.Option(help="Quality of webp (100 is lossless) or jpeg, 0 to 100.")
    ] = None,
    background: Annotated[str | None, typer.Option(help="transparent, opaque or auto.")] = None,
    key: Annotated[str, typer.Option(help="Idempotency key: the same key answers the same set, not a new one.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Show the progress until the set ends.")] = False,
    fetch: Annotated[str, typer.Option(metavar="FOLDER", help="Wait, then write the images there.")] = "",
    url: Url = "",
    as_json: AsJson = False,
) -> int:
    """Create a set of emoji from prompts as words, lines of a text file, or JSONL with parameters per line."""
    from emoji_ldm.serve.bulk import set_commands

    parameters = {
        # None means that the option was not given. It is left out of the request, so that defaults are the service's
        # own: a newer service may have others than this client.
        "n": n, "styles": style, "name": name, "seed": seed, "steps": steps, "guidance_scale": guidance_scale,
        "scheduler": scheduler, "negative_prompt": negative_prompt, "size": size, "model": model, "lora": lora,
        "quality": quality, "output_format": output_format, "output_compression": output_compression,
        "background": background,
    }  # fmt: skip
    with _client(config, url) as client:
        return set_commands.create(
            client, set_commands.NewSet(words, file, parameters, key, wait, fetch), as_json=as_json
        )


@set_command(
    "status",
    words="ID",
    examples=[
        "emoji-ldm sets status set_0123",
        "emoji-ldm sets status set_0123 --watch",
        "emoji-ldm sets status set_0123 --json",
    ],
)
def status(
    config: "Config",
    words: list[str],
    watch: Annotated[bool, typer.Option("--watch", help="Show the progress until the set ends.")] = False,
    url: Url = "",
    as_json: AsJson = False,
) -> int:
    """Print counts, progress, rate and remaining time of a set."""
    from emoji_ldm.serve.bulk import set_commands

    job_id = _set_id(words, "status")
    with _client(config, url) as client:
        return (set_commands.watch if watch else set_commands.status)(client, job_id, as_json=as_json)


@set_command(
    "fetch", words="ID FOLDER", examples=["emoji-ldm sets fetch set_0123", "emoji-ldm sets fetch set_0123 ./emoji"]
)
def fetch(config: "Config", words: list[str], url: Url = "") -> int:
    """Write the finished images, prompts.csv and a contact sheet; an interrupted fetch continues where it stopped."""
    from emoji_ldm.serve.bulk import set_commands

    # The folder is optional; without it the images go into one that has the id as its name.
    job_id, folder = _set_id(words[:1], "fetch"), words[1:]
    with _client(config, url) as client:
        return set_commands.fetch(client, job_id, one_word(folder, "fetch takes one folder") if folder else "")


@set_command("cancel", words="ID", examples=["emoji-ldm sets cancel set_0123"])
def cancel(config: "Config", words: list[str], url: Url = "") -> int:
    """Stop a set; its finished images stay."""
    from emoji_ldm.serve.bulk import set_commands

    job_id = _set_id(words, "cancel")
    with _client(config, url) as client:
        return set_commands.cancel(client, job_id)


@set_command("list", examples=["emoji-ldm sets list", "emoji-ldm sets list --limit 5 --url http://host:8000"])
def list_sets(
    config: "Config",
    words: list[str],
    limit: Annotated[int, typer.Option(metavar="N", help="Sets to show.")] = 20,
    url: Url = "",
    as_json: AsJson = False,
) -> int:
    """List your sets, newest first."""
    from emoji_ldm.serve.bulk import set_commands

    with _client(config, url) as client:
        return set_commands.list_sets(client, limit, as_json=as_json)


@set_command("delete", words="ID", examples=["emoji-ldm sets delete set_0123"])
def delete(config: "Config", words: list[str], url: Url = "") -> int:
    """Cancel a set and delete all its images."""
    from emoji_ldm.serve.bulk import set_commands

    job_id = _set_id(words, "delete")
    with _client(config, url) as client:
        return set_commands.delete(client, job_id)


@contextmanager
def _client(config: "Config", url: str) -> "Iterator[EmojiSetClient]":
    from emoji_ldm.serve.bulk.set_client import open_client

    # 0.0.0.0 is an address to listen on, and no address to connect to.
    host = "127.0.0.1" if config.serve.host == "0.0.0.0" else config.serve.host
    # The nearest to the user wins: option, then environment, then configuration.
    address = url or os.environ.get(URL_VARIABLE) or f"http://{host}:{config.serve.port}"
    with open_client(address, os.environ.get(KEY_VARIABLE, "")) as client:
        yield client


def _set_id(words: list[str], name: str) -> str:
    return one_word(words, f"sets {name} takes the id of one set, as `create` and `list` print it")
