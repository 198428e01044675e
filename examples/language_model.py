"""A language model phrases the answer; a sentence that its sources do not bear out is dropped.

The model here replies from a script, so that the example runs anywhere. For a real one, any
OpenAI-compatible endpoint will do: `from pharos.serve import ChatEndpoint`, then
`ChatEndpoint("http://localhost:8000/v1")`.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from pharos import Library
from pharos.core.doubles import ScriptedModel

NOTE = (
    "# The beacon\n\nThe beacon is lit at dusk. Its light is seen from three hundred stadia away.\n"
)
REPLY = "The beacon is lit at dusk [1]. It was built by giants from the north [1]."


def main() -> None:
    with TemporaryDirectory() as folder:
        note = Path(folder, "beacon.md")
        note.write_text(NOTE)
        library = Library.open(Path(folder, "library"))
        library.ingest([note])
        answer = library.ask("When is the beacon lit?", model=ScriptedModel([REPLY]))
        print("answer: ", answer.answer)
        print("dropped:", *answer.unsupported)


if __name__ == "__main__":
    main()
