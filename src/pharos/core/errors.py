"""Errors that reach the user. Each message names the value, the rule it broke, and the way out."""


class PharosError(Exception):
    """Base of everything a user can cause; the command line prints one line and exits with 1."""


class DocumentError(PharosError):
    """A document could not be read; the ingest goes on, and its report carries the message."""


class LibraryError(PharosError):
    """A library folder is missing, of another version, or made with another encoder."""


class LockedError(LibraryError):
    """Another process is writing to the library."""


class IntegrityError(LibraryError):
    """What the library holds does not add up; `pharos library check` lists where."""


class ModelError(PharosError):
    """A model could not be found, verified or loaded."""


class CorpusError(PharosError):
    """Token shards are missing, damaged, unfinished, or of another tokenizer."""


class TrainingError(PharosError):
    """A run was told what cannot be, or went wrong in a way that must not go on."""


class EndpointError(PharosError):
    """A remote language model did not answer as its API promises."""
