"""What each `dataset` command does: its options become a library call, the result becomes text.

Every public function prints to standard output and returns the exit status of its command.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence

from emoji_ldm.config import Config
from emoji_ldm.dataset.formats.export_options import ExportOptions
from emoji_ldm.dataset.lineage import RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.verify import verify as verify_tables
from emoji_ldm.dataset.versions import branch as branches
from emoji_ldm.dataset.versions import refs
from emoji_ldm.dataset.versions import restore as restoring
from emoji_ldm.dataset.versions.compact import compact as compact_table
from emoji_ldm.dataset.versions.diff import diff_tables, format_diff
from emoji_ldm.dataset.versions.history import existing_tables, format_log, format_tables, specs_named
from emoji_ldm.dataset.versions.vacuum import RetentionPolicy, apply_vacuum, format_vacuum, plan_vacuum
from emoji_ldm.errors import ConfigError
from emoji_ldm.schemas import IMAGES, TABLES, TableSpec
from emoji_ldm.store import Store
from ray_jobs.cli.command import one_word

# A lost bucket damages every row. A hundred lines show the pattern, and the count below says how many there are.
SHOWN_DAMAGES = 100


def log(config: Config, table: str) -> int:
    """Print the versions of one table, or of all if the name is empty."""
    return _print(format_log(*_line(config), table))


def show(config: Config, table: str) -> int:
    """Print columns, counts and a few rows of one table, or of all if the name is empty."""
    return _print(format_tables(*_line(config), table))


def diff(config: Config, words: Sequence[str], *, table: str, rows: int, as_json: bool) -> int:
    """Print the rows that differ between two points; a single point is compared with `as_of`."""
    if not 1 <= len(words) <= 2:
        raise ConfigError(
            "diff takes one or two points: emoji-ldm dataset diff v1 v2 (tag, branch, time, TABLE@VERSION)"
        )
    specs, store = specs_named(table), _store(config)
    # One point alone is compared with the present, which `as_of` may move; None stands for the newest version.
    texts = [*words, config.as_of][:2] if len(words) == 1 else words
    # A point such as images@7 pins one table only, while a tag or a time pins all of them.
    named = [match[1] if text and (match := refs.PINNED_PATTERN.match(text)) else "" for text in texts]
    if all(named) and named[0] != named[1]:
        raise ConfigError(f"{texts[0]} and {texts[1]} are different tables: compare two versions of one table")
    # The pinned table decides what is compared, so `--table` need not repeat it.
    if not table and any(named):
        specs = specs_named(next(filter(None, named)))
    sides = [refs.open_tables(store, text, *specs) for text in texts]
    found = diff_tables(*sides)
    if as_json:
        return _print(json.dumps([one.to_dict(rows) for one in found], indent=2) + "\n")
    # Tables without any difference are left out of the text; JSON keeps them, since programs want the same fields every
    # time.
    changed = [one for one in found if one.keys]
    return _print("".join(format_diff(one, rows) for one in changed) or "no row differs\n")


def tag(config: Config, words: Sequence[str], *, message: str, delete: bool) -> int:
    """Create or delete a tag, or list all tags."""
    # Without a name the command only lists, which must work on a store that is read-only.
    store = _store(config, writes=bool(words))
    if not words:
        return _print("".join(_ref_line(facts) for facts in refs.tags(store).values()) or "no tags\n")
    name = one_word(words, "tag takes one name")
    if not delete:
        return _print("tagged " + _ref_line(refs.create_tag(store, name, message, config.as_of)))
    # A deleted tag is gone, so the line that restores it is printed while its versions are known.
    facts = refs.delete_tag(store, name)
    where = f" branch={facts['branch']}" if facts["branch"] else ""
    return _print(
        f"deleted tag {_ref_line(facts)}undo: emoji-ldm dataset tag {name} --as-of {_pins(facts, ',')}{where}\n"
    )


def branch(config: Config, words: Sequence[str], *, start: str, delete: bool) -> int:
    """Create a branch at a point, delete one, or list all branches."""
    store = _store(config, writes=bool(words))
    if not words:
        return _print("".join(_ref_line(facts) for facts in refs.branches(store).values()) or "no branches\n")
    name = one_word(words, "branch takes one name")
    if delete:
        deleted = _ref_line(branches.delete_branch(store, name))
        return _print(f"deleted branch {deleted}the next vacuum deletes its own files\n")
    facts = branches.create_branch(store, name, start)
    return _print(f"created branch {_ref_line(facts)}use it: emoji-ldm <any command> branch={name}\n")


def restore(config: Config, words: Sequence[str], *, table: str) -> int:
    """Make new versions with the rows of an old point."""
    at = one_word(words, "restore takes one tag, time, TABLE@VERSION or, with --table, version")
    store = _store(config, writes=True)
    match = refs.PINNED_PATTERN.match(at)
    specs = specs_named(table or (match[1] if match else ""))
    # Resolved before the first table is changed: a point that does not exist must change nothing.
    point = refs.resolve(store, at, specs)
    present = [Table(store, spec) for spec in specs if Table(store, spec).exists]
    named = [one for one in present if point.names(one.spec)]
    done = [_restored(restoring.restore(point, one, _run_info(config)), f"the rows of {at}") for one in named]
    # A table that is younger than the point is named: users would otherwise take the whole store for restored.
    left = [f"{one.spec.name}: {at} does not name it; it stays as it is\n" for one in present if one not in named]
    return _print("".join([*done, *left]))


def revert(config: Config, words: Sequence[str]) -> int:
    """Undo what one commit did, as a new version."""
    text = one_word(words, "revert takes one TABLE@VERSION")
    match = refs.PINNED_PATTERN.fullmatch(text)
    if not match:
        raise ConfigError(f"{text!r} is not TABLE@VERSION, such as images@7 (emoji-ldm dataset log)")
    (spec,) = specs_named(match[1])
    done = restoring.revert(Table(_store(config, writes=True), spec), int(match[2]), _run_info(config))
    return _print(_restored(done, f"all but {text}"))


def compact(config: Config, table: str) -> int:
    """Join the small files of one table, or of all if the name is empty."""
    specs, store = specs_named(table), _store(config, writes=True)
    for spec in specs:
        if (found := Table(store, spec)).exists:
            done = compact_table(found, _run_info(config))
            what = f"version {done.version}, rows unchanged" if done.version is not None else "nothing to join"
            _print(f"{done.table}: {done.before} files -> {done.after}, {done.size / 2**20:,.1f} MB; {what}\n")
    return 0


def vacuum(config: Config, words: Sequence[str], *, keep: str, older_than: str, apply: bool) -> int:
    """Name the files that nothing refers to, and delete them if `apply` says so."""
    # Parsed first, so that a wrong `--keep` is reported before the store is searched.
    policy = RetentionPolicy(keep, older_than, words)
    store = _store(config, writes=apply)
    # What is deleted is exactly what was listed: `apply_vacuum` gets the plan and makes none of its own.
    plan = plan_vacuum(store, policy)
    return _print(format_vacuum(plan, apply_vacuum(store, plan, policy) if apply else None))


def verify(config: Config, table: str) -> int:
    """Check one table, or all if the name is empty; 1 if something is damaged."""
    tables = existing_tables(*_line(config), table)
    # Rows of the other tables refer to images, so `images` is opened in every case.
    result = verify_tables(tables if not table else {**refs.open_tables(*_line(config), IMAGES), **tables})
    for found in (result.problems, result.orphans):
        _print("".join(f"{damage}\n" for damage in found[:SHOWN_DAMAGES]))
        if (hidden := len(found) - SHOWN_DAMAGES) > 0:
            _print(f"... and {hidden:,} more\n")
    if result.orphans:
        _print(f"{len(result.orphans):,} rows belong to images that no longer exist: no damage, readers skip them\n")
    rows = ", ".join(f"{count:,} of {name}" for name, count in result.rows.items())
    _print(f"checked rows: {rows}; {len(result.problems) or 'no'} damages\n")
    # Orphans are no damage: readers join with `images` and skip them.
    return 1 if result.problems else 0


def stats(config: Config, table: str, *, as_json: bool) -> int:
    """Print counts of one table, or of all if the name is empty."""
    from emoji_ldm.dataset.table_stats import format_stats, table_stats

    data = table_stats(existing_tables(*_line(config), table))
    text = json.dumps(data, indent=2, default=str) if as_json else format_stats(data).rstrip("\n")
    return _print(f"{text}\n")


def split(config: Config, words: Sequence[str], *, parts: str, salt: str) -> int:
    """Count how the images fall into parts, and write the parts to a file if one is named."""
    from emoji_ldm.dataset.split import parse_fractions, split_images

    target = one_word(words, "split takes one target file") if words else ""
    images = _inputs(config, IMAGES)[IMAGES.name]
    counts = split_images(images, parse_fractions(parts), salt=salt, target=target)
    return _facts({**counts, **({"written": target} if target else {})})


def export(config: Config, options: ExportOptions) -> int:
    """Write images and captions for other programs."""
    from emoji_ldm.dataset.export import export as export_tables

    tables = _inputs(config, IMAGES, TABLES["captions"])
    return _facts(export_tables(tables["images"], tables["captions"], options))


def import_(config: Config, words: Sequence[str]) -> int:
    """Add the images of another data set."""
    from emoji_ldm.crawl.dataset_import import import_dataset

    source = one_word(words, "import takes one folder, file or s3://...: emoji-ldm dataset import ./emoji")
    # Not `_store`, which requires that the store exists: an import may be the first thing that fills one.
    Store(config.store, config.branch).check_writable()
    return _facts(import_dataset(config, source))


def _line(config: Config) -> tuple[Store, str | None]:
    """Return the store with its branch, and the point in its history that is read."""
    return Store(config.store, config.branch), config.as_of


def _run_info(config: Config) -> RunInfo:
    return RunInfo(config.run, config.to_json())


def _inputs(config: Config, *specs: TableSpec) -> dict[str, Table]:
    _store(config)
    return refs.open_tables(*_line(config), *specs)


def _store(config: Config, *, writes: bool = False) -> Store:
    """Return the store, which must exist and, for a command that writes, be writable."""
    store = Store(config.store, config.branch)
    # Checked by itself: on S3, a wrong bucket would otherwise look like a store without tables.
    store.check_readable()
    if writes:
        store.check_writable()
    return store


def _restored(done: restoring.RestoreResult, what: str) -> str:
    if done.version is None:
        return f"{done.table}: has {what} already\n"
    counts = ", ".join(f"{name} {count:,}" for name, count in done.counts.items())
    return (f"{done.table}: version {done.version} has {what} ({counts})\n"
            f"  undo: emoji-ldm dataset restore {done.table}@{done.before}\n")  # fmt: skip


def _ref_line(facts: Mapping[str, object]) -> str:
    origin = facts.get("from") or facts.get("branch")
    message = f"  {facts['message']}" if facts.get("message") else ""
    where = f"  of {origin}" if origin else ""
    pins = textwrap.fill(_pins(facts, " "), 80, initial_indent="  ", subsequent_indent="  ")
    return f"{facts['name']}  {str(facts['time'])[:16]}{where}{message}\n{pins}\n"


def _pins(facts: Mapping[str, object], separator: str) -> str:
    tables = facts["tables"]
    assert isinstance(tables, dict)
    return separator.join(f"{name}@{version}" for name, version in tables.items())


def _facts(facts: Mapping[str, object]) -> int:
    width = max(map(len, facts), default=0)
    return _print("".join(f"{name:<{width}}  {_value(value)}\n" for name, value in facts.items()))


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _print(text: str) -> int:
    sys.stdout.write(text)
    return 0
