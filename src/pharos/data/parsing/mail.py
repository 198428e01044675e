"""E-mail: what the headers say, the text of the message, and the attachments by name."""

import email
import re
from collections.abc import Iterator
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import parsedate_to_datetime

from pharos.core import DocumentError
from pharos.data.cleaning import clean_line, clean_text, squeeze_blank_lines
from pharos.data.parsing.decoding import decode
from pharos.data.parsing.draft import Draft, Parsed, Raw
from pharos.data.parsing.html import html_parsed
from pharos.data.parsing.limits import ParseLimits

_SHOWN = ("From", "To", "Cc", "Date")
_MBOX_SEPARATOR = re.compile(
    rb"(?:\A|\r?\n(?=\r?\n))(?:\r?\n)?From \S+ [^\n]{0,100}\d{4}[^\n]{0,20}\n"
)
_ESCAPED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)
_NO_SUBJECT = "(no subject)"


def parse_mail(raw: Raw) -> Parsed:
    message = _read(raw.data)
    draft = Draft(raw.limits)
    _add_message(draft, message, raw.limits)
    metadata = {name.lower(): _header(message, name) for name in ("From", "To")}
    metadata["date"] = _date(message)
    return draft.finish(
        title=_header(message, "Subject"), metadata={k: v for k, v in metadata.items() if v}
    )


def parse_mbox(raw: Raw) -> Parsed:
    """A mailbox: every message a section."""
    draft = Draft(raw.limits)
    for part in _MBOX_SEPARATOR.split(raw.data):
        if part.strip():
            message = _read(_ESCAPED_FROM.sub(rb"\1", part))
            _add_message(draft, message, raw.limits)
    return draft.finish(title=raw.name)


def _read(data: bytes) -> Message:
    try:
        return email.message_from_bytes(data)
    except (MessageError, ValueError, RecursionError) as error:
        raise DocumentError(f"is no mail that can be read: {error}") from error


def _add_message(draft: Draft, message: Message, limits: ParseLimits) -> None:
    """Appends a message, and any that it forwards as an attachment, one level deeper."""
    messages = [(message, 1)]
    while messages:
        current, level = messages.pop()
        draft.add_heading(_header(current, "Subject") or _NO_SUBJECT, level)
        for name in _SHOWN:
            if value := _header(current, name):
                draft.add_line(f"{name}: {value}")
        attachments: list[str] = []
        for part in _leaves(current):
            if part.get_content_type() == "message/rfc822":
                messages.extend((m, level + 1) for m in _forwarded(part))
            elif _is_body(part):
                draft.embed(_body(part, limits), deeper=level)
            else:
                attachments.append(_name(part))
        if attachments:
            draft.add("Attachments: " + ", ".join(attachments))


def _leaves(message: Message) -> Iterator[Message]:
    """The parts to show, in order; of alternatives the plain one, unless it is blank."""
    stack = [message]
    while stack:
        part = stack.pop()
        children = part.get_payload()
        if part.get_content_type() == "message/rfc822" or not isinstance(children, list):
            yield part
        elif part.get_content_type() == "multipart/alternative":
            stack.extend(_preferred([child for child in children if isinstance(child, Message)]))
        else:
            stack.extend(child for child in reversed(children) if isinstance(child, Message))


def _preferred(alternatives: list[Message]) -> list[Message]:
    for part in alternatives:
        if part.get_content_type() == "text/plain" and _text(part).strip():
            return [part]
    return alternatives[-1:]  # the richest comes last


def _forwarded(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [m for m in payload if isinstance(m, Message)] if isinstance(payload, list) else []


def _is_body(part: Message) -> bool:
    return (
        part.get_content_type() in ("text/plain", "text/html")
        and part.get_content_disposition() != "attachment"
        and part.get_filename() is None
    )


def _body(part: Message, limits: ParseLimits) -> Parsed:
    text = _text(part)
    if part.get_content_type() == "text/html":
        return html_parsed(text, limits)
    if str(part.get_param("format", "")).lower() == "flowed":
        text = re.sub(r"(?<!--) \r?\n(?!>)", " ", text)
    return Parsed(text=squeeze_blank_lines(clean_text(text)))


def _text(part: Message) -> str:
    data = part.get_payload(decode=True)
    return decode(data, part.get_content_charset()) if isinstance(data, bytes) else ""


def _name(part: Message) -> str:
    """An attachment as it is listed: its name or, without one, its type."""
    return clean_line(_decoded(part.get_filename() or "")) or part.get_content_type()


def _header(message: Message, name: str) -> str:
    return clean_line(_decoded(str(message.get(name, ""))))


def _decoded(value: str) -> str:
    """`=?utf-8?q?caf=C3=A9?=` as a reader sees it."""
    value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    try:
        return str(make_header(decode_header(value)))
    except (MessageError, LookupError, ValueError):
        return value


def _date(message: Message) -> str:
    """The date in ISO form, or as it is written if it cannot be understood."""
    value = _header(message, "Date")
    try:
        return parsedate_to_datetime(value).isoformat() if value else ""
    except (ValueError, TypeError):
        return value
