"""Rows -> terminal, Markdown, CSV, JSON: one set of rows, several writers. No torch, no arithmetic, nothing measured here."""

from __future__ import annotations

from humar_bench.report.data import to_csv, to_json
from humar_bench.report.files import check_folder, check_writable, refuse_shared, report_texts, write_report, write_text
from humar_bench.report.markdown import to_markdown
from humar_bench.report.terminal import make_console, print_comparison, print_table

__all__ = [
    "check_folder",
    "check_writable",
    "make_console",
    "print_comparison",
    "print_table",
    "refuse_shared",
    "report_texts",
    "to_csv",
    "to_json",
    "to_markdown",
    "write_report",
    "write_text",
]
