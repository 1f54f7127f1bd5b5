"""Paths of a machine in a text: what is published would tell of it, and nobody else could use them."""

from __future__ import annotations

import re

# First folders under which people and their programs keep things; a whole value that is one of them is a path, too.
_ROOTS = (
    r"(?:home|Users|root|tmp|private|var|mnt|media|data\d*|datasets?|Volumes|volumes?\d*|vol\d*|dbfs|gpfs\w*|lustre\w*|beegfs|ceph\w*|scratch\w*|workspaces?|Workspace|work\d*|content|kaggle|nfs\w*|afs"
    r"|efs|fsx|net|exports?|srv|opt|projects?|proj|storage|shared?|teamspace|notebooks|app|code|repo|builds?|cluster|ssd\d*|hdd\d*|disks?\d*|nvme\w*|raid\w*|mounts?|host_mnt|run|cygdrive|gdrive|drive"
    r"|databricks|lakehouse|sdcard|users?|u|nobackup|archive|backup)"
)
_LIKE_ROOTS = r"[\w-]*(?:data|disk|drive|home|mnt|mount|nas|nfs|project|scratch|share|storage|store|vol|work)[\w-]*"
# The same on every machine, or of none: system folders, addresses within a web site, placeholders.
_COMMON = (
    r"(?:usr/(?!local/google/|home/)|bin/|s?bin/|lib\d*/|etc/|proc/|sys/|dev/(?:null|zero|full|u?random|std\w+|tty|fd|kvm|nvidia)|opt/(?:conda|homebrew|venv|rocm|intel|nvidia)"
    r"|(?:[\w-]+/)?(?:api|v\d+)/|chat/|oauth/|html/|docs?/|blob/|tree/|resolve/|raw/|static/|assets/|imgs?/|images/|issues/|wiki/|path/|my/|your[\w-]*/|some/|absolute/|full/|example/|foo/|a/b\b|x/y\b"
    r"|(?:home|Users)/(?:you|USER|USERNAME|username|your[\w-]*)\b|[\w-]+/\.\.\.)"
)
_EDGE = r"(?:(?<![\w.~/\\)\]}>%$@+*?#&-])|(?<=\\[nrt]))"  # not in the middle of a relative path, an address or a fraction
_ABSOLUTE = rf"{_EDGE}/(?!{_COMMON})(?:[\w.@+~%-]+/+(?:[\w.@+~%-]{{2,}}|[\w.@+~%-]/)|(?:{_ROOTS}|{_LIKE_ROOTS})/+[\w.@+~%-])"
_ESCAPED = rf"(?i:%2F|\\/){_ROOTS}(?i:%2F|\\/)\w"
_HOME = r"(?<![\w./~)\]-])~/(?!\.)\w|(?:(?<=[\s\"'`=(:])|^)~[a-z][\w-]*/[\w.-]+/"
_ADDRESS = r"\b(?i:file|smb|nfs|cifs|afp|sftp|sshfs|fish|davs?|hdfs|dbfs|abfss?|wasbs?|vscode-remote|vscode-vfs|adl|gdrive|colab|jupyter):/+(?!\.\.\.|(?i:path/to))[\w~.%@+-]|\b(?:ssh|rsync|scp)://(?!git@)\w|//wsl(?:\$|\.localhost)/\w"
_UNC = r"(?<![\w\\}])\\{2,4}(?:[?.]\\{1,2}\w|[A-Za-z0-9][\w.$-]+\\{1,2}[\w$.-]{2,})(?![^\n]*\{)"
_DRIVE = r"(?<![\w\\])[A-Za-z]:(?:\\{1,2}|/(?!/))(?![nrt](?:[\\\s\"']|$))(?:[\w.$-]{2,}|[\w.$-][\\/])"
_TEXT = re.compile("|".join((_ABSOLUTE, _ESCAPED, _HOME, _ADDRESS, _UNC, _DRIVE)), re.M)
# In code "if x:\n" is no drive x, and a scratch file of all machines' /tmp is nobody's.
_CODE = re.compile(
    "|".join(
        (_ABSOLUTE.replace("(?!", "(?!tmp/|", 1), _ESCAPED, _HOME, _ADDRESS, _UNC, _DRIVE.replace("[A-Za-z]", "[A-Z]", 1))
    ),
    re.M,
)
_VALUE = re.compile(
    rf"(?:~[\w.-]*|\.\.?|/(?!path/to)[^\s/]+|//[\w.-]+|\\\\[\w.?$-]+|[A-Za-z]:|\$\{{?\w+\}}?|\$env:\w+|%\w+%)[\\/]\S*|/{_ROOTS}|\.\."
)


def find_path(text: str, *, code: bool = False) -> int | None:
    """Where the first path of a machine is in a text: absolute ones, of Windows too, those of a home (~/x), of shares (\\\\server\\share, smb://x), file://x.

    Paths that are the same everywhere (/usr/bin/env, /dev/null, ~/.cache) and placeholders (/path/to/model) may stay; so may relative ones.
    code: /tmp/x may stay, too.
    """
    found = (_CODE if code else _TEXT).search(text)
    return None if found is None else found.start()


def is_path(value: str) -> bool:
    """Whether a whole value of a document is a path of a machine, or one that leads somewhere on it: ../x and $HOME/x do."""
    return _VALUE.fullmatch(value.strip()) is not None
