"""Ask a document, and check the answer against it.

python examples/ask_a_file.py LICENSE "Does the licence grant patent rights?"
"""

import sys
from tempfile import TemporaryDirectory

from pharos import Library


def main(path: str, question: str) -> None:
    with TemporaryDirectory() as folder:
        library = Library.open(folder)
        library.ingest([path])
        answer = library.ask(question)
        if answer.abstained:
            print(f"No answer (confidence {answer.confidence:.2f}).")
        for citation in answer.citations:
            text = library.document(citation.document).text
            assert text[citation.start : citation.end] == citation.quote
            print(f"“{citation.quote}”\n    {citation.document}, {citation.start}–{citation.end}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["LICENSE", "Does the licence grant patent rights?"]))
