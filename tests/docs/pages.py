"""The README and the guides as tests read them: their commands, and words of a page that become those of a test."""

import re
import shlex

from ray_jobs.cli.main import main
from tests.emoji_server import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    """The text of a page's blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page):
    """The words of every command in a page's shell blocks, comments left out."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def guide(name, *starts):
    """The words after `emoji-ldm` of a guide's commands that start with one of these texts, all without any."""
    ours = [words[1:] for words in commands(ROOT / "docs" / f"{name}.md") if words[0] == "emoji-ldm"]
    return [words for words in ours if not starts or " ".join(words).startswith(starts)]


def run(words, capfd, replaced=None):
    """Run a command in this process, which must succeed; returns (its standard output, its standard error).

    Args:
        words: The command, after `emoji-ldm`.
        capfd: Pytest's capture of both.
        replaced: {text of the page: what stands for it here}, such as the address of a site.
    """
    for old, new in (replaced or {}).items():
        words = [word.replace(old, new) for word in words]
    capfd.readouterr()
    status = main(words)
    printed, said = capfd.readouterr()
    assert status == 0, (words, printed, said)
    return printed, said
