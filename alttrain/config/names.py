"""What a name must be that becomes a path: a run's and its tag, a backbone's, a protocol's, a benchmark's, a method's.

A config and a run's folder may be a stranger's: a name of theirs must not lead outside the folder it is meant for.
"""

LONGEST = 200
"""Bytes of a name. Filesystems take 255, and a name gets a suffix or two."""


def name_fault(name: object) -> str:
    """What is accepted, where a name is not a plain one; "" where it is."""
    if not isinstance(name, str):
        return "accepted: a name as text"
    plain = all(letter.isalnum() or letter in "-_." for letter in name)
    if plain and name and name[0] != "." and ".." not in name and len(name.encode()) <= LONGEST:
        return ""
    return f"accepted as a folder name: letters, digits, '-', '_' and '.', not '.' in front or twice, {LONGEST} bytes"
