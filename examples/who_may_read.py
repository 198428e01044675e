"""Documents with readers: who is not in a group of theirs gets no trace of them."""

from pathlib import Path
from tempfile import TemporaryDirectory

from pharos import Library

OPEN = "# Opening hours\n\nThe reading room is open from nine to five on weekdays.\n"
CLOSED = "# Acquisitions\n\nThe budget for new scrolls is twelve talents this year.\n"


def main() -> None:
    with TemporaryDirectory() as folder:
        hours, budget = Path(folder, "hours.md"), Path(folder, "budget.md")
        hours.write_text(OPEN)
        budget.write_text(CLOSED)
        library = Library.open(Path(folder, "library"))
        library.ingest([hours])
        library.ingest([budget], groups=["librarians"])

        question = "How large is the budget for new scrolls?"
        print("a visitor is told:  ", library.ask(question).answer)
        print("a librarian is told:", library.ask(question, groups=["librarians"]).answer)


if __name__ == "__main__":
    main()
