"""What each `dataset` verb does: options to a library call, its result to text. Returns exit statuses."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence

from emoji_ldm.config import Config
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.verify import verify
from emoji_ldm.dataset.versions import branch, refs, restore
from emoji_ldm.dataset.versions.compact import compact
from emoji_ldm.dataset.versions.diff import diff_tables, format_diff
from emoji_ldm.dataset.versions.history import existing_tables, format_log, format_tables, specs_named
from emoji_ldm.dataset.versions.vacuum import RetentionPolicy, apply_vacuum, plan_vacuum
from emoji_ldm.dataset.versions.vacuum import format_vacuum as vacuum_text
from emoji_ldm.errors import ConfigError
from emoji_ldm.schemas import IMAGES, TABLES, TableSpec
from emoji_ldm.store import Store

SHOWN_DAMAGES = 100


def run(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    """Do the verb that was parsed."""
    if getattr(arguments, "at", ""):
        config = config.model_copy(update={"as_of": arguments.at})
    return HANDLERS[arguments.verb](arguments, config, words)


def _log(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    return _say((format_log if arguments.verb == "log" else format_tables)(config, _table(arguments, words)))


def _diff(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    if not 1 <= len(words) <= 2:
        raise ConfigError(
            "diff takes one or two points: emoji-ldm dataset diff v1 v2 (tag, branch, time, TABLE@VERSION)"
        )
    specs, store = specs_named(arguments.table), _store(config)
    texts = [*words, config.as_of][:2] if len(words) == 1 else words
    named = [match[1] if text and (match := refs.PINNED_PATTERN.match(text)) else "" for text in texts]
    if all(named) and named[0] != named[1]:
        raise ConfigError(f"{texts[0]} and {texts[1]} are different tables: compare two versions of one table")
    if not arguments.table and any(named):
        specs = specs_named(next(filter(None, named)))
    sides = [refs.open_at(store, text, *specs) for text in texts]
    found = diff_tables(*sides)
    if arguments.json:
        return _say(json.dumps([one.to_dict(arguments.rows) for one in found], indent=2) + "\n")
    changed = [one for one in found if one.keys]
    return _say("".join(format_diff(one, arguments.rows) for one in changed) or "no row differs\n")


def _tag(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    store = _store(config, writes=bool(words))
    if not words:
        return _say("".join(_ref_line(facts) for facts in refs.tags(store).values()) or "no tags\n")
    name = _one(words, "tag takes one name")
    if not arguments.delete:
        return _say("tagged " + _ref_line(refs.create_tag(store, name, arguments.message, config.as_of)))
    facts = refs.delete_tag(store, name)
    where = f" branch={facts['branch']}" if facts["branch"] else ""
    return _say(f"deleted tag {_ref_line(facts)}undo: emoji-ldm dataset tag {name} --at {_pins(facts, ',')}{where}\n")


def _branch(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    store = _store(config, writes=bool(words))
    if not words:
        return _say("".join(_ref_line(facts) for facts in refs.branches(store).values()) or "no branches\n")
    name = _one(words, "branch takes one name")
    if arguments.delete:
        return _say(
            f"deleted branch {_ref_line(branch.delete_branch(store, name))}its own files go with the next vacuum\n"
        )
    facts = branch.create_branch(store, name, arguments.start)
    return _say(f"made branch {_ref_line(facts)}use it: emoji-ldm <any command> branch={name}\n")


def _restore(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    at = _one(words, "restore takes one tag, time, TABLE@VERSION or, with --table, version")
    store = _store(config, writes=True)
    match = refs.PINNED_PATTERN.match(at)
    specs = specs_named(arguments.table or (match[1] if match else ""))
    point = refs.resolve(store, at, specs)
    present = [Table(store, spec) for spec in specs if Table(store, spec).exists]
    done = [restore.restore(config, point, table) for table in present if point.names(table.spec)]
    left = [f"{table.spec.name}: {at} does not name it; it stays as it is\n" for table in present
            if not point.names(table.spec)]  # fmt: skip
    return _say("".join([*(_undone(one, f"the rows of {at}") for one in done), *left]))


def _revert(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    text = _one(words, "revert takes one TABLE@VERSION")
    match = refs.PINNED_PATTERN.fullmatch(text)
    if not match:
        raise ConfigError(f"{text!r} is not TABLE@VERSION, such as images@7 (emoji-ldm dataset log)")
    (spec,) = specs_named(match[1])
    done = restore.revert(config, Table(_store(config, writes=True), spec), int(match[2]))
    return _say(_undone(done, f"all but {text}"))


def _compact(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    specs, store = specs_named(_table(arguments, words)), _store(config, writes=True)
    for spec in specs:
        if (table := Table(store, spec)).exists:
            done = compact(config, table)
            what = f"version {done.version}, rows unchanged" if done.version is not None else "nothing to join"
            _say(f"{done.table}: {done.before} files -> {done.after}, {done.size / 2**20:,.1f} MB; {what}\n")
    return 0


def _vacuum(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    policy = RetentionPolicy(arguments.keep, arguments.older_than, words)
    store = _store(config, writes=arguments.apply)
    what = plan_vacuum(store, policy)
    return _say(vacuum_text(what, apply_vacuum(store, what, policy) if arguments.apply else None))


def _verify(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    name = _table(arguments, words)
    asked = existing_tables(config, name)
    result = verify(asked if not name else {**refs.open_tables(config, IMAGES), **asked})
    for found in (result.damages, result.orphans):
        _say("".join(f"{damage}\n" for damage in found[:SHOWN_DAMAGES]))
        if (hidden := len(found) - SHOWN_DAMAGES) > 0:
            _say(f"... and {hidden:,} more\n")
    if result.orphans:
        _say(f"{len(result.orphans):,} rows are of images that are no more: no damage, readers pass them by\n")
    rows = ", ".join(f"{count:,} of {name}" for name, count in result.rows.items())
    _say(f"checked rows: {rows}; {len(result.damages) or 'no'} damages\n")
    return 1 if result.damages else 0


def _stats(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    from emoji_ldm.dataset.table_stats import format_stats, table_stats

    data = table_stats(existing_tables(config, _table(arguments, words)))
    return _say(
        json.dumps(data, indent=2, default=str) + "\n" if arguments.json else format_stats(data).rstrip("\n") + "\n"
    )


def _split(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    from emoji_ldm.dataset.split import parse_fractions, split_images

    target = _one(words, "split takes one target file") if words else ""
    images = _inputs(config, IMAGES)[IMAGES.name]
    counts = split_images(images, parse_fractions(arguments.parts), salt=arguments.salt, target=target)
    return _facts({**counts, **({"written": target} if target else {})})


def _export(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    from emoji_ldm.dataset.export import export
    from emoji_ldm.dataset.formats.export_options import ExportOptions
    from emoji_ldm.dataset.split import parse_fractions

    if len(words) != 2:
        raise ConfigError(
            "export takes a format and a target: emoji-ldm dataset export csv ./out (csv json txt hf webdataset)"
        )
    tables = _inputs(config, IMAGES, TABLES["captions"])
    options = ExportOptions(words[0], words[1], parse_fractions(arguments.parts), arguments.salt, arguments.background,
                            arguments.images, arguments.captioned, arguments.license)  # fmt: skip
    return _facts(export(tables["images"], tables["captions"], options))


def _import(arguments: argparse.Namespace, config: Config, words: Sequence[str]) -> int:
    from emoji_ldm.crawl.dataset_import import import_dataset

    source = _one(words, "import takes one folder, file or s3://...: emoji-ldm dataset import ./emoji")
    Store(config.store, config.branch).check()  # it may make a new store
    return _facts(import_dataset(config, source))


HANDLERS: Mapping[str, Callable[[argparse.Namespace, Config, Sequence[str]], int]] = {
    "log": _log, "show": _log, "diff": _diff, "tag": _tag, "branch": _branch, "restore": _restore,
    "revert": _revert, "compact": _compact, "vacuum": _vacuum, "verify": _verify, "stats": _stats, "split": _split,
    "export": _export, "import": _import,
}  # fmt: skip


def _inputs(config: Config, *specs: TableSpec) -> dict[str, Table]:
    _store(config)
    return refs.open_tables(config, *specs)


def _store(config: Config, *, writes: bool = False) -> Store:
    """The store, which must be there; a verb that writes also finds out whether it can."""
    store = Store(config.store, config.branch)
    store.check_reading()
    if writes:
        store.check()
    return store


def _table(arguments: argparse.Namespace, words: Sequence[str]) -> str:
    """The one table that is meant, as a word or an option; empty for all."""
    return str(_one(words, f"{arguments.verb} takes one table") if words else arguments.table)


def _one(words: Sequence[str], rule: str) -> str:
    if len(words) != 1:
        raise ConfigError(f"{rule}, not {' '.join(words) or 'none'}")
    return words[0]


def _undone(done: restore.RestoreResult, what: str) -> str:
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
    return _say("".join(f"{name:<{width}}  {_value(value)}\n" for name, value in facts.items()))


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _say(text: str) -> int:
    sys.stdout.write(text)
    return 0
