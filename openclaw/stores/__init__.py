"""OpenClaw's session stores: JSONL transcripts, archives and agent databases behind one interface.

All of it is synchronous, bounded and made for `asyncio.to_thread`; one `Stores` may be used by one thread at a time.

    stores = Stores(state_dir)
    discovery = stores.discover()                   # what is there: stat calls and one short query per database
    sessions = stores.sessions()                    # who is who: keys, kinds, parents; cached until a file changes
    for source in discovery.sources:
        position = positions.get(source.key)        # by source key, as they were saved
        if not stores.changed(source, position):
            continue
        while True:
            chunk = stores.read(source, position)   # at most ~max_bytes; may raise SourceError
            ...                                     # account for chunk.entries; save chunk.position with the rows
            position = chunk.position
            if chunk.done:
                break

`stores.followed(discovery, positions)` gives the positions with renamed files carried over to their new names (a
reset or a delete renames a transcript); without it such a file is read again, which changes no total.
Nothing is ever written into the state directory.
"""

from openclaw.stores.contract import (
    Chunk,
    Details,
    Discovery,
    Entry,
    LineReject,
    Message,
    Part,
    Position,
    Problem,
    SessionInfo,
    Source,
    SourceError,
    Store,
)
from openclaw.stores.database import Rows, row_entry, schema_version
from openclaw.stores.discovery import Place, place
from openclaw.stores.files import Block, Lines, decode_line
from openclaw.stores.stores import Stores

__all__ = [
    "Block",
    "Chunk",
    "Details",
    "Discovery",
    "Entry",
    "LineReject",
    "Lines",
    "Message",
    "Part",
    "Place",
    "Position",
    "Problem",
    "Rows",
    "SessionInfo",
    "Source",
    "SourceError",
    "Store",
    "Stores",
    "decode_line",
    "place",
    "row_entry",
    "schema_version",
]
