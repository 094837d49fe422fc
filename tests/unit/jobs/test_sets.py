"""The options of `emoji-ldm sets`, as they reach a client; tests/unit/serve/bulk/test_set_commands.py has a server."""

from __future__ import annotations

import pytest

from emoji_ldm.serve.bulk import set_client, set_commands
from ray_jobs.cli.main import main


class Client:
    """A client that sends nothing; `opened` holds the address and key of each."""

    opened: list[tuple[str, str]]

    def __init__(self, url, key=""):
        self.opened.append((url, key))

    def close(self):
        pass


@pytest.fixture
def opened(monkeypatch):
    Client.opened = []
    monkeypatch.setattr(set_client, "EmojiSetClient", Client)
    monkeypatch.setattr(set_commands, "list_sets", lambda client, limit, as_json: 0)
    monkeypatch.delenv("EMOJI_LDM_URL", raising=False)
    monkeypatch.delenv("EMOJI_LDM_API_KEY", raising=False)
    return Client.opened


@pytest.mark.parametrize("verb", ["create", "status", "fetch", "cancel", "list", "delete"])
def test_help_of_every_verb_shows_an_example(verb, capsys):
    assert main(["sets", verb, "--help"]) == 0
    assert f"emoji-ldm sets {verb}" in capsys.readouterr().out.split("examples:")[1]


def test_the_address_is_the_option_then_the_environment_then_the_configuration(opened, monkeypatch):
    assert main(["sets", "list", "serve.host=0.0.0.0", "serve.port=8123"]) == 0
    monkeypatch.setenv("EMOJI_LDM_URL", "http://other:1")
    monkeypatch.setenv("EMOJI_LDM_API_KEY", "sk-emoji-x")
    assert main(["sets", "list"]) == 0 and main(["sets", "list", "--url", "http://given:2"]) == 0
    assert opened == [("http://127.0.0.1:8123", ""), ("http://other:1", "sk-emoji-x"), ("http://given:2", "sk-emoji-x")]


def test_words_styles_and_parameters_of_a_new_set_arrive_as_they_were_given(opened, monkeypatch):
    created = []
    monkeypatch.setattr(set_commands, "create", lambda client, new, as_json: created.append(new) or 0)
    words = ["a cat", "a dog", "-n", "4", "--style", "{prompt}, flat", "--style", "{prompt}, 3d", "--steps", "9"]
    assert main(["sets", "create", *words, "--key", "once", "--wait"]) == 0
    [new] = created
    assert (new.prompts, new.key, new.wait, new.fetch) == (["a cat", "a dog"], "once", True, "")
    given = {name: value for name, value in new.parameters.items() if value is not None}
    assert given == {"n": 4, "styles": ["{prompt}, flat", "{prompt}, 3d"], "steps": 9}


@pytest.mark.parametrize("verb", ["status", "fetch", "cancel", "delete"])
def test_a_command_without_an_id_sends_nothing(verb, opened, capsys):
    assert main(["sets", verb]) == 2
    assert f"sets {verb} takes the id of one set" in capsys.readouterr().err and not opened
