"""The metadata engine: captions without a model, from the title, the listing's tags and measured pixels.

Nothing is invented. Eyes, mouth, expression and action are named only where the title of something with a face says
so; otherwise they are "none", as is the skin colour of everything but heads. Colours and outline come first in the
sentence, since captions are cut at `latents.max_tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from emoji_ldm.caption.engine_protocol import CaptionInput, CaptionRequest, EngineAnswer
from emoji_ldm.caption.image_stats import ImageStats, measure_image
from emoji_ldm.caption.sentence_format import NONE, sentence_variants

# The colour of a head is a skin colour; that of a cat or a balloon is not, though either may have a face.
_HEADS = re.compile(r"\b(face|smiley|blob|head|skull|pepe)s?\b")  # titles of images that are a head as a whole
_FACES = re.compile(r"\b(face|smiley|blob|head|pepe|cat|kitten|panda|frog|monkey|man|woman|boy|girl|baby)s?\b")

# The first pattern that is found in the lower-case title decides, so special cases stand before general ones.
_EYES = {
    r"heart[- ]?eyes|in love": "heart-shaped", r"star[- ]?struck|star[- ]?eyes": "star-shaped", r"\bwink": "winking",
    r"sunglass|\bcool\b": "sunglasses-covered", r"squint": "squinting", r"rolling eyes|eye ?roll": "rolling",
    r"smiling eyes": "smiling", r"big eyes": "big", r"crossed[- ]out|knocked out|dead": "crossed-out",
    r"spiral|dizzy": "spiral", r"cry|sob|\btears?\b|weep": "tearful", r"sleep|closed eyes": "closed",
    r"\bwide[- ]eyed|flushed|pleading": "wide-open",
}  # fmt: skip
_MOUTH = {
    r"without mouth|no mouth": NONE, r"zipper": "zipped", r"tongue|savor|yum": "tongue-out", r"drool": "drooling",
    r"kiss": "kissing", r"vomit|nause": "open", r"\bhush": "small",
    r"loudly crying|sob|open mouth|astonish|gasp|surpris|shock|scream|yawn|\bwow\b": "open", r"medical mask": "masked",
    r"frown|\bsad\b|pout|disappoint|cry": "frowning", r"grimac|teeth": "toothy", r"smirk|wry": "smirking",
    r"grin|beam|joy|laugh|\brofl\b|\blol\b": "grinning", r"smil|happy|slightly smiling": "smiling",
    r"neutral|expressionless|unamused|diagonal": "straight",
}  # fmt: skip
_EXPRESSION = {
    r"tears of joy|laugh|rolling on the floor|\brofl\b|\blol\b": "laughing", r"loudly crying|sob|\bcry|weep": "crying",
    r"angry|rage|pout|enraged|symbols on mouth|steam|\bmad\b": "angry", r"heart|love|kiss|ador": "loving",
    r"tongue|zany|crazy|silly|wink|playful|party": "playful", r"scream|fear|scared|horror|anguish": "scared",
    r"surpris|astonish|shock|gasp|\bhush|open mouth|\bwow\b|explod|flush": "surprised", r"sunglass|\bcool\b": "cool",
    r"\bsad\b|frown|disappoint|pensive|plead|tear|downcast": "sad", r"worr|anxious|sweat|nervous|confound": "worried",
    r"sick|nause|vomit|sneez|thermometer|bandage|mask": "sick", r"sleep|tired|weary|yawn|drows|exhaust": "tired",
    r"think|monocle|raised eyebrow": "thoughtful", r"confus|dizzy|diagonal": "confused", r"smirk|wry": "smug",
    r"neutral|expressionless|without mouth|unamused": "neutral", r"reliev|calm": "relieved", r"\bshy\b|blush": "shy",
    r"grin|smil|beam|happy|joy|savor|yum|halo": "happy",
}  # fmt: skip
_ACTION = {
    r"\bwav(e|ing)\b": "waving", r"danc": "dancing", r"\brun(ning)?\b": "running", r"hug": "hugging",
    r"clap": "clapping", r"salut": "saluting", r"think": "thinking", r"blowing a kiss": "blowing a kiss",
    r"shush": "shushing", r"rolling on the floor": "rolling on the floor", r"sleep|zzz": "sleeping",
    r"yawn": "yawning", r"sneez": "sneezing", r"vomit": "vomiting", r"party": "partying", r"\bpray": "praying",
    r"holding back tears": "holding back tears", r"\beat(ing)?\b|savor": "eating", r"\bnod": "nodding",
    r"\bshak": "shaking", r"\bjump": "jumping",
}  # fmt: skip


class MetadataEngine:
    """The engine; further captions of an image state the same facts in other sentences."""

    batch_size: int | None = None
    # The same facts give the same sentence, so a retry would be validated to the same result.
    can_resample = False

    def prepare(self, requests: Sequence[CaptionRequest]) -> Sequence[CaptionRequest]:
        """Nothing to prepare."""
        return requests

    def answer(self, prepared: Sequence[CaptionRequest]) -> list[EngineAnswer]:
        """One answer per request; where the facts allow no further sentence, its `error` says so."""
        return [describe_image(request.input, request.number) for request in prepared]


def describe_image(source: CaptionInput, number: int = 0) -> EngineAnswer:
    """The caption of one image, which claims only what is known; `number` selects the form of the sentence."""
    title, facts = clean_title(source.title), measure_image(source.image)
    attributes = _attributes(f"{title} {' '.join(source.tags)}".lower(), title.lower(), facts)
    forms = sentence_variants(title, attributes, _new_tag(title, source.tags))
    # The facts stay the same, so further captions are other forms of the sentence, as long as there are any.
    if number < len(forms):
        return EngineAnswer(forms[number], attributes=attributes)
    return EngineAnswer("", error=f"the facts of this image allow only {len(forms)} different sentences")


def clean_title(title: str) -> str:
    """A title as words: "6205-blobCry.png" becomes "Blob cry"; "Unnamed" if no letter is left."""
    text = re.sub(r"\.(png|gif|jpe?g|webp|svg)$", "", title.strip(), flags=re.IGNORECASE)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    # Some sites put a number before each name, and use underscores or dots where others have spaces.
    text = re.sub(r"^\d+[-_ ]+|[\s_.,;:!?\"()\[\]{}/\\|~*#]+", " ", text)
    # A hyphen stays inside a word only ("heart-eyes"); the word "emoji" goes, since the sentence adds it.
    text = re.sub(r"-(?!\w)|(?<!\w)-|\bemojis?\b", " ", text, flags=re.IGNORECASE)
    words = " ".join(text.split())
    if not re.search(r"\w", words):
        return "Unnamed"
    # Titles in capitals, such as LOL, are abbreviations and keep them.
    return words[0].upper() + (words[1:] if words[1:].isupper() else words[1:].lower())


def _attributes(words: str, title: str, facts: ImageStats) -> dict[str, str]:
    head, face = bool(_HEADS.search(words)), bool(_FACES.search(words))
    return {
        "head_shape": f"{' and '.join(facts.colors)} {facts.shape} {'head' if head else 'shape'}",
        # Only the title is searched for features, since the tags of a listing describe many images at once. They may
        # still say that an image shows a face.
        "eyes": _first_match(_EYES, title) if face else NONE,
        "mouth": _first_match(_MOUTH, title) if face else NONE,
        "expression": _first_match(_EXPRESSION, title) if face else NONE,
        "skin_color": facts.colors[0] if head else NONE,
        "action": _first_match(_ACTION, title) if face else NONE,
        "background": facts.background,
    }


def _first_match(table: Mapping[str, str], title: str) -> str:
    return next((value for pattern, value in table.items() if re.search(pattern, title)), NONE)


def _new_tag(title: str, tags: Sequence[str]) -> str:
    """The first tag that the title does not contain, in lower case; "" if it contains all."""
    lowered = title.lower()
    cleaned = (clean_title(tag).lower() for tag in tags)
    return next((tag for tag in cleaned if tag.removesuffix("s") not in lowered), "")
