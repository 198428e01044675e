"""When and how the vectors of a library are indexed."""

from lancedb.table import Table


def index_vectors(windows: Table) -> bool:
    """Build or extend the index over `windows.vector` if the table is large enough to want one."""
    return False
