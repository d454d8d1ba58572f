"""SQL lives in .sql files, in blocks that begin with `-- name: …`; here they become attributes."""

import re
from importlib.resources import files
from types import SimpleNamespace

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)\s*$", re.MULTILINE)


def load_statements(package: str, filename: str) -> SimpleNamespace:
    """Read one file of named statements: `statements.lock_wallets` is the text under `-- name: lock_wallets`.

    Raises ValueError for a name given twice or a file without names; a missing name is an AttributeError
    at its first use, which is at import in the modules that bind statements to constants.
    """
    text = files(package).joinpath(filename).read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    names, bodies = parts[::2], parts[1::2]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{package}/{filename} has no named statement, or one name twice: {names}")
    return SimpleNamespace(**{name: body.strip() for name, body in zip(names, bodies, strict=True)})
