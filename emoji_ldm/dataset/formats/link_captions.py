"""Formats `json` and `txt`: records {link, caption} or lines `link<TAB>caption`, as `crawl.source=records` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack

from pyarrow import NativeFile

from emoji_ldm.dataset.formats.atomic_output import open_output_file
from emoji_ldm.dataset.formats.export_options import ExportPlan, Row
from emoji_ldm.store import Store


def write_json(output: Store, rows: Iterable[Row], plan: ExportPlan) -> None:
    """Write one JSON list: `records.json`, or with a split `{part}.json`."""
    with ExitStack() as stack:
        files = _files(stack, output, plan, "json")
        # The list is written piece by piece, because a JSON encoder would need all records in memory. What stands
        # before a record is the bracket for the first one and a comma for the others.
        separators = dict.fromkeys(files, "[\n")
        for row in rows:
            record = json.dumps({"link": row["source_url"], "caption": row["caption"]}, ensure_ascii=False)
            files[row["part"]].write(f"{separators[row['part']]}{record}".encode())
            separators[row["part"]] = ",\n"
        for file in files.values():
            file.write(b"\n]\n")


def write_txt(output: Store, rows: Iterable[Row], plan: ExportPlan) -> None:
    """Write one line per record: `records.txt`, or with a split `{part}.txt`."""
    with ExitStack() as stack:
        files = _files(stack, output, plan, "txt")
        for row in rows:
            # A line is a record and a tab separates its fields, so captions lose their own line breaks and tabs.
            caption = " ".join(row["caption"].split())
            files[row["part"]].write(f"{row['source_url']}\t{caption}\n".encode())


def _files(stack: ExitStack, output: Store, plan: ExportPlan, ending: str) -> dict[str, NativeFile]:
    names = {part: part if plan.options.splits else "records" for part in plan.parts}
    return {part: stack.enter_context(open_output_file(output, f"{name}.{ending}")) for part, name in names.items()}
