"""Words on links and buttons that lead to more of a listing, in the languages that sites are mostly written in."""

from __future__ import annotations

import re

# How a visitor is told that there is more. Patterns are those of both Python and JavaScript.
NEXT_WORDS = (
    r"^(?:go to )?(?:the )?next(?: page| emoji)?\W*$|^(?:show )?older\b|^(?:nächste|weiter|vor)\b|^suivant|^page suiv|"
    r"^siguiente|^próxim|^seguinte|^successiv|^avanti|^volgende|^nästa|^neste|^næste|^następn|^dalej|^sonraki|^след|"
    r"^вперёд|^далее|^下一|^下页|^次|^다음|^(?:›|»|→|>|>>|▶|❯)$|(?:›|»|→)$"
)
MORE_WORDS = (
    r"^(?:load|show|view|see|get|display)\b.{0,20}\b(?:more|all|rest|next)\b|^more\b|^(?:mehr|weitere|alle)\b|"
    r"^(?:voir|afficher|charger)\b.{0,12}\bplus|^plus d|^(?:ver|cargar|mostrar)\b.{0,12}\bmás|^más\b|"
    r"^(?:carica|mostra|vedi)\b.{0,12}\b(?:altr|di più)|^(?:carregar|ver|mostrar)\b.{0,12}\bmais|^(?:meer|toon meer)|"
    r"^(?:visa|ladda|se) (?:fler|mer)|^(?:pokaż|załaduj|zobacz) więcej|^daha fazla|^(?:показать|загрузить) ещё|^ещё\b|"
    r"^更多|^加载更多|^查看更多|^もっと|^さらに|^더 ?보기"
)
# A button with one of these words shows more of something else.
OTHER_WORDS = (
    r"comment|repl(?:y|ies)|review|newsletter|subscri|sign|log ?in|share|cookie|consent|options|setting|language|less|"
    r"text|about|info|detail|learn|kommentar|antwort|bewertung|commentaire|avis|comentario|opinion|reacti|download"
)
PAGE_PARAMETERS = ("page", "p", "pg", "paged", "pagenum", "page_number", "pagina", "seite")
OTHER_PARAMETERS = ("offset", "start", "from", "skip", "after", "before", "cursor", "since", "max_id", "token",
                    "page_token", "pagetoken", "continue", "next", "last_id")  # fmt: skip
PAGE_ADDRESS = rf"[?&](?:{'|'.join((*PAGE_PARAMETERS, *OTHER_PARAMETERS))})=|/page[/-]\d+"
_NEXT, _ADDRESS = re.compile(NEXT_WORDS, re.IGNORECASE), re.compile(PAGE_ADDRESS, re.IGNORECASE)
_PREVIOUS = re.compile(r"\bprev|^newer|«|‹|←|zurück|précédent|anterior|vorige", re.IGNORECASE)
MAX_LINK_TEXT = 30


def is_next(rel: str, text: str, label: str) -> bool:
    """Whether a link leads to the next page: by its relation, its text or its label."""
    if "prev" in rel.lower() or _PREVIOUS.search(label or text):
        return False
    if re.search(r"\bnext\b", rel, re.IGNORECASE):
        return True
    return bool((len(text) <= MAX_LINK_TEXT and _NEXT.search(text)) or _NEXT.search(label))


def is_page_link(href: str, rel: str, text: str, label: str) -> bool:
    """Whether a link may lead to another page of the listing, in any of the ways that `pagination` looks for."""
    is_number = text.isdecimal() and len(text) < 7
    return is_number or is_next(rel, text, label) or _ADDRESS.search(href) is not None
