"""What each target accepts: the only place where a limit of a chat service is written, with its source and date.

A byte limit is exclusive: files are smaller than it, since services write "up to" and "below" for the same number.
Copies of the sources were read on `CHECKED`; where a service's own page does not state a number, the source says who
does. Services change their limits without notice, so a refused upload is a reason to read them again.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from emoji_ldm.errors import ConfigError

CHECKED = "2026-11-22"
KIB, KB = 1024, 1000
WORD, LOWER_WORD = r"[A-Za-z0-9_]{2,32}", r"[a-z0-9_]{2,32}"
PictureFormat = Literal["png", "webp"]


@dataclass(frozen=True)
class PackTarget:
    """The rules of one target."""

    id: str
    title: str
    size_px: int | None  # side of every picture; None keeps that of the source
    max_bytes: int | None  # of one picture, exclusive
    format: PictureFormat
    source: str  # where the limits are stated
    names: str = WORD  # regular expression that a whole name matches
    min_pictures: int = 1
    max_pictures: int = 1000
    slots: tuple[int, ...] = ()  # how many pictures accounts of rising levels hold
    margin_px: int = 0  # left free around the picture
    note: str = ""

    def accepts_name(self, name: str) -> bool:
        """Tell whether a picture may have this name."""
        return re.fullmatch(self.names, name) is not None


# Fields of WhatsApp's tray icon, the picture that stands for a pack.
TRAY_SIZE_PX, TRAY_MAX_BYTES = 96, 50 * KB
# PNG sizes that browsers and home screens ask for, and those inside favicon.ico.
FAVICON_SIZES_PX, ICO_SIZES_PX = (16, 32, 180, 192, 512), (16, 32, 48)

TARGETS = {
    target.id: target
    for target in (
        PackTarget(
            "discord", "Discord emoji", 128, 256 * KIB, "png",
            "https://docs.discord.com/developers/resources/emoji; slots: https://sapphirejs.dev, PremiumGuildLimits",
            max_pictures=250, slots=(50, 100, 150, 250),
            note="A server has 50 slots, with boosts 100, 150 or 250.",
        ),
        PackTarget(
            "slack", "Slack emoji", 128, 128 * KIB, "png",
            "https://docs.slack.dev/reference/methods/admin.emoji.add", names=LOWER_WORD,
            note="Square, lower-case names, a transparent ground.",
        ),
        PackTarget(
            "teams", "Microsoft Teams emoji", 128, 256 * KB, "png",
            "https://learn.microsoft.com/microsoftteams/teams-custom-emojis; bytes: https://www.hubsite365.com",
            max_pictures=5000, slots=(5000,), note="5,000 emoji per organisation.",
        ),
        PackTarget(
            "mastodon", "Mastodon emoji", 128, 256 * KIB, "png",
            "https://github.com/mastodon/mastodon, app/models/custom_emoji.rb and pull request 18788",
            note="mastodon.tar.gz is what `tootctl emoji import` reads.",
        ),
        PackTarget(
            "misskey", "Misskey emoji", 128, 256 * KIB, "png",
            "https://github.com/misskey-dev/misskey, ImportCustomEmojisProcessorService.ts; bytes: Mastodon's limit",
            names=LOWER_WORD, note="The control panel imports the ZIP; emoji above Mastodon's limit do not federate.",
        ),
        PackTarget(
            "telegram", "Telegram stickers", 512, 512 * KB, "webp",
            "https://core.telegram.org/stickers, https://core.telegram.org/bots/api#addstickertoset", max_pictures=120,
            slots=(120,), note="One side is exactly 512 px.",
        ),
        PackTarget(
            "whatsapp", "WhatsApp stickers", 512, 100 * KB, "webp",
            "https://github.com/WhatsApp/stickers, Android/README.md and StickerPackValidator.java",
            min_pictures=3, max_pictures=30, slots=(30,), margin_px=16,
            note="With tray.png of 96 px below 50 kB and contents.json; a white outline of 8 px is recommended.",
        ),
        PackTarget(
            "favicon", "Favicons", 512, None, "png",
            "https://html.spec.whatwg.org/multipage/links.html#rel-icon, https://www.w3.org/TR/appmanifest/",
            max_pictures=20, note="favicon.ico, PNG files, a web manifest and the lines for a page.",
        ),
        PackTarget(
            "sprite", "CSS sprite sheet", 128, None, "png",
            "https://www.w3.org/TR/css-backgrounds-3/", names=LOWER_WORD, max_pictures=400,
            note="One PNG, a style sheet and a page that shows them.",
        ),
        PackTarget(
            "font", "Colour font", 128, 64 * KIB, "png",
            "https://learn.microsoft.com/typography/opentype/spec/cbdt", max_pictures=1000,
            note="OpenType with bitmaps (CBDT) and one with outlines (COLR version 1), from U+E000 on.",
        ),
        PackTarget(
            "zip", "Plain pictures", None, None, "png", "the ZIP application note of PKWARE, version 6.3",
            names=r"[A-Za-z0-9_]{1,64}", max_pictures=10_000, note="Cleaned pictures of their own size.",
        ),
    )
}  # fmt: skip


def target_of(name: str) -> PackTarget:
    """Return a target by its id; raises ConfigError that lists them."""
    if target := TARGETS.get(name):
        return target
    near = difflib.get_close_matches(name, TARGETS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(TARGETS)}"
    raise ConfigError(f"there is no pack target {name[:40]!r}{hint}")
