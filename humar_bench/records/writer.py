"""Records -> the lines of a file that grows while a run goes on. What stands in the file already is read first, and never lost."""

from __future__ import annotations

import os

from humar_bench.errors import HumarBenchError, UsageError
from humar_bench.records.appending import Appender, OutputLost
from humar_bench.records.record import BEGINS, NEWLINE, Record, is_torn, record_in, records_path

SHOWN = 60  # characters of a foreign line that a sentence shows


class RecordWriter:
    """Appends records to a file; each is on disk (fsync) before `write` returns.

    A record that an earlier writer left cut short at the end is removed first; nothing else ever is, and a file that holds anything but
    records is refused. One writer at a time: a second one is refused. Raises UsageError when the file cannot be opened, is in use or is
    no records file, MeasurementError when a record cannot be written, OutputLost when something happened to the file.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = records_path(path)
        self._file = Appender(self.path, self._accept)
        try:
            self._mend()
        except BaseException:
            self.close()
            raise

    def write(self, *records: Record) -> None:
        """Append records, all or none: what was measured together is on disk together."""
        what = " and ".join(dict.fromkeys(record.architecture for record in records))
        lines = b"".join(record.to_json().encode("utf-8") + b"\n" for record in records)
        self._file.append(lines, f"the {records[0].measure} record of {what}")

    def check(self) -> None:
        """Raises OutputLost unless all that was written is still there, under its name."""
        self._file.check()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """A run that failed, perhaps because its folder is gone, says both and where its records are."""
        try:
            if kind is None or isinstance(error, HumarBenchError) and not isinstance(error, OutputLost):
                self.check()
        except OutputLost as lost:
            if error is not None:
                lost.args = (f"{lost} The run had failed: {error}",)
            raise
        finally:
            self.close()

    def _accept(self, first: bytes) -> None:
        if first and not first.startswith(BEGINS[: len(first)]):
            line = _shown(first.split(NEWLINE)[0])
            raise UsageError(f"{self.path} is no records file, its first line is {line}; it is left as it is, name another file.")

    def _mend(self) -> None:
        """Refuse what is no record, give a whole last line its missing end, remove a torn one."""
        *lines, last = self._file.content.split(NEWLINE)
        for number, line in enumerate(lines, 1):
            self._hold(number, line)
        if not last:
            return
        if is_torn(last, alone=not any(lines)):
            self._file.cut(len(self._file.content) - len(last))
        else:
            self._hold(len(lines) + 1, last)
            self._file.append(NEWLINE, "the end of the last line")

    def _hold(self, number: int, line: bytes) -> None:
        try:
            if line.strip():
                record_in(line)
        except ValueError as error:
            raise UsageError(
                f"{self.path} line {number} is not a record ({_shown(line)}: {error}); it is left as it is, name another file."
            ) from None


def _shown(line: bytes) -> str:
    """The beginning of a line, quoted, for a sentence."""
    text = line[: 4 * SHOWN].decode("utf-8", errors="backslashreplace")
    return repr(text if len(text) <= SHOWN and len(line) <= 4 * SHOWN else f"{text[:SHOWN]}...")
