"""The report of what was decided in a span of time, as values, and as a document. Pure.

values.py the figures; risks.py which rules to look at; sections.py what the document says of both
(parts.py is what it is made of); html.py (style.py, charts.py) and markdown.py write it, with the
same content. What programs, names and people chose is cleaned where the figures are made, and
escaped where a form is written.
"""

from arbiter.report.html import as_html
from arbiter.report.markdown import as_markdown
from arbiter.report.risks import risks
from arbiter.report.sections import document
from arbiter.report.values import (
    Answers,
    Carried,
    Cost,
    Day,
    Denied,
    Destination,
    Executable,
    Gap,
    Group,
    NewDestination,
    Report,
    Risk,
    RuleChange,
    Totals,
)

__all__ = [
    "Answers",
    "Carried",
    "Cost",
    "Day",
    "Denied",
    "Destination",
    "Executable",
    "Gap",
    "Group",
    "NewDestination",
    "Report",
    "Risk",
    "RuleChange",
    "Totals",
    "as_html",
    "as_markdown",
    "document",
    "risks",
]
