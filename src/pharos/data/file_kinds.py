"""What stands in a folder besides regular files, in words."""

import stat

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


def kind_of(mode: int) -> str:
    """What a file is whose `st_mode` is `mode`, unless it is a regular file."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")
