"""Who may touch what in the store (modules/policies/accounts.yaml), held against the code and the manifests."""

from fnmatch import fnmatchcase

import pytest
import yaml

from emoji_ldm.config import Config
from emoji_ldm.crawl import frontier
from emoji_ldm.dataset import checkpoint_aliases
from emoji_ldm.dataset.versions import lock
from emoji_ldm.schemas import TABLES
from emoji_ldm.serve.bulk import batch_files
from emoji_ldm.store import FORMAT_FILE, Store
from ray_jobs.pipeline import NEXT_COMMANDS
from tests.infra.terraform import FOLDER, ROOT

DATA = yaml.safe_load((FOLDER / "modules" / "policies" / "accounts.yaml").read_text())
ACCOUNTS = DATA["accounts"]
STORE = Store("s3://bucket/store")


def service_accounts():
    things = yaml.safe_load_all((ROOT / "k8s" / "base" / "accounts.yaml").read_text())
    return {obj["metadata"]["name"] for obj in things if obj["kind"] == "ServiceAccount"}


def patterns(account, *kinds):
    """What the Terraform module makes of the words, see its main.tf."""
    sources = [DATA["everyone"], *(ACCOUNTS[name] for name in (account, *ACCOUNTS[account].get("like", [])))]
    entries = [entry for source in sources for kind in kinds for entry in source.get(kind, [])]
    words = [word for entry in entries for word in (entry if isinstance(entry, list) else [entry])]
    tables = [f"{start}tables/{word}/*" for word in words for start in ("", "branches/*/") if word in TABLES]
    return tables + [word.replace("ACCOUNT", account) for word in words if word not in TABLES]


def may(account, kind, key):
    kinds = {"read": ("read", "write", "delete"), "write": ("write", "delete"), "delete": ("delete",)}[kind]
    return any(fnmatchcase(key, pattern) for pattern in patterns(account, *kinds))


def test_the_tables_are_those_of_the_records():
    assert DATA["tables"] == list(TABLES)


def test_every_service_account_has_rights_or_a_reason_for_none():
    known = service_accounts()
    assert set(ACCOUNTS) | set(DATA["none"]) <= known
    assert known - set(ACCOUNTS) - set(DATA["none"]) <= {"store", "store-setup", "redis"}  # not in overlay eks
    assert set(NEXT_COMMANDS) <= set(ACCOUNTS)


def test_a_word_is_a_table_or_a_pattern():
    for account in ACCOUNTS:
        for pattern in patterns(account, "read", "write", "delete"):
            is_known = "/" in pattern or pattern.startswith(".") or pattern in ("", FORMAT_FILE)
            assert is_known, f"{account}: {pattern} is no table"


@pytest.mark.parametrize("account", ACCOUNTS)
def test_everybody_may_try_the_store_and_say_what_a_stage_took(account):
    assert may(account, "delete", ".write-check-0a1b")
    assert may(account, "write", FORMAT_FILE) and not may(account, "delete", FORMAT_FILE)
    assert may(account, "write", "runs/emoji/stages/1700000000000-crawl.json")
    assert may(account, "read", f"refs/branches/{'try'}.json")
    assert not may(account, "write", "/".join(lock.LOCK_PATH))


@pytest.mark.parametrize("account", ACCOUNTS)
def test_logs_of_a_stage_go_to_its_own_folder(account):
    agent = yaml.safe_load((ROOT / "k8s" / "components" / "logs" / "fluent-bit.yaml").read_text())
    key = agent["pipeline"]["outputs"][0]["s3_key_format"].removeprefix("/store/")
    assert may(account, "write", key.replace("${STAGE}", account))
    assert not may(account, "write", key.replace("${STAGE}", "another"))


@pytest.mark.parametrize(
    ("account", "reads", "writes"),
    [
        ("crawl", [], ["listings", "outcomes", "images"]),
        ("caption", ["images"], ["captions"]),
        ("autoencoder", ["images"], []),
        ("latents", ["images", "captions"], ["latents", "text_embeddings"]),
        ("train", ["images", "captions"], ["latents", "text_embeddings", "generated"]),
        ("generate", [], ["generated"]),
        ("report", list(TABLES), []),
        ("serve", [], []),
    ],
)
def test_a_stage_reads_and_writes_its_own_tables_alone(account, reads, writes):
    for name in TABLES:
        for folder in (STORE.table_path(name), f"branches/try-0a1b2c3d/tables/{name}"):
            entry = f"{folder}/_delta_log/00000000000000000000.json"
            assert may(account, "write", entry) == (name in writes)
            assert may(account, "read", entry) == (name in reads + writes)
            assert not may(account, "delete", entry)


def test_paths_that_the_code_names_are_covered():
    assert may("crawl", "delete", "/".join(frontier._refresh_marker_path(Config())))
    assert may("generate", "read", "/".join((*checkpoint_aliases.ALIAS_FOLDER, "best.json")))
    assert may("serve", "delete", "/".join((*batch_files.FOLDER, "file-0a1b", batch_files.CONTENT)))
    assert may("report", "write", "runs/emoji/report.html")
    for account, kind in (("autoencoder", "autoencoder"), ("train", "unet")):
        assert may(account, "delete", f"checkpoints/emoji/{kind}/step-00000400-0a1b2c3d/COMPLETE")
        assert may(account, "write", f"checkpoints/emoji/{kind}/LATEST")
    assert not may("autoencoder", "write", "checkpoints/emoji/unet/LATEST")
    assert not may("train", "write", "checkpoints/emoji/autoencoder/LATEST")
    assert may("train", "delete", "runs/emoji/train/ray-0a1b2c3d/.validate_storage_marker")


def test_the_lifecycle_knows_every_folder_that_an_account_writes():
    text = (FOLDER / "variables.tf").read_text()
    block = text[text.index('variable "lifecycle_days"') :].split("\nvariable ")[0]
    for account in ACCOUNTS:
        for pattern in patterns(account, "write", "delete"):
            top = pattern.partition("/")[0]
            assert not top or top.startswith(".") or top == FORMAT_FILE or f"\n    {top} " in block, (
                f"{account} writes {top}/, which no rule is about"
            )
