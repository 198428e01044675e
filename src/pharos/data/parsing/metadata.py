"""A Python package's METADATA or PKG-INFO: fields, then a description in Markdown or reST."""

from email.parser import HeaderParser
from email.policy import compat32

from pharos.data.cleaning import clean_line
from pharos.data.parsing.decoding import decode
from pharos.data.parsing.draft import Draft, Parsed, Raw
from pharos.data.parsing.markdown import markdown_parsed
from pharos.data.parsing.rst import rst_parsed

_SHOWN = (
    "Summary",
    "Author",
    "License",
    "License-Expression",
    "Requires-Python",
    "Home-page",
    "Project-URL",
)


def parse_metadata(raw: Raw) -> Parsed:
    message = HeaderParser(policy=compat32).parsestr(decode(raw.data))
    name, version = str(message.get("Name", raw.name)), str(message.get("Version", ""))
    draft = Draft(raw.limits)
    draft.add_heading(f"{name} {version}", 1)
    for key in _SHOWN:
        for value in message.get_all(key, []):
            draft.add_line(f"{key}: {value}")
    description = message.get("Description") or message.get_payload()
    if isinstance(description, str):
        is_markdown = "markdown" in str(message.get("Description-Content-Type", ""))
        render = markdown_parsed if is_markdown else rst_parsed
        draft.embed(render(description), deeper=1)
    return draft.finish(metadata={"name": clean_line(name), "version": clean_line(version)})
