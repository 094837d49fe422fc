"""The store that a data set is imported into."""

from emoji_ldm.config import Config
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import CAPTIONS
from emoji_ldm.store import Store


def config(tmp_path):
    return Config(store=str(tmp_path / "target"))


def table(config, spec):
    return Table(Store(config.store), spec)


def captions_of(config):
    return sorted(table(config, CAPTIONS).read(["caption"])["caption"].to_pylist())
