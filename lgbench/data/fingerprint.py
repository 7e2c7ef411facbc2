"""Short hashes that stand for data and settings."""

import hashlib


def digest(*parts: object) -> str:
    """16 hex digits that stand for these values, in this order."""
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:16]
