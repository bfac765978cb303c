"""What other people do to a Delta table with delta-rs, and what it reads of one.

usage: delta_programs.py optimize LOCATION
       delta_programs.py vacuum LOCATION
       delta_programs.py rows LOCATION [VERSION]
"""

import json
import os
import sys
from collections.abc import Sequence

from deltalake import DeltaTable


def optimize(location: str) -> object:
    """Puts small files together."""
    return DeltaTable(location).optimize.compact()


def vacuum(location: str) -> object:
    """Deletes every file that the newest version does not have, whatever its age."""
    return DeltaTable(location).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)


def rows(location: str, version: str | None = None) -> object:
    """Identifiers of all rows, in order."""
    table = DeltaTable(location, version=None if version is None else int(version))
    return sorted(row["id"] for row in table.to_pyarrow_table(columns=["id"]).to_pylist())


def main(arguments: Sequence[str]) -> None:
    """Prints what a program says, as JSON."""
    program, *rest = arguments
    programs = {"optimize": optimize, "vacuum": vacuum, "rows": rows}
    if program not in programs:
        sys.exit(__doc__)
    print(json.dumps(programs[program](*rest)), flush=True)
    # Threads that read ahead for a dataset may outlive it; the interpreter's own end would wait for none of them and abort.
    os._exit(0)


main(sys.argv[1:])
