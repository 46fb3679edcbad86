"""Write ERRATA.md from data/errata/*.json: `python data/make_errata.py`.

The fields of an entry are described at the head of tests/test_errata.py.
"""

import json
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TITLES = {
    "01": "1 背景介绍 · Background",
    "02": "2 核心概念与联系 · Core concepts",
    "03": "3 核心算法原理 · Algorithms",
    "04": "4 数学模型 · Mathematics",
    "05": "5 项目实践 · Project",
    "06": "6 实际应用场景 · Applications",
    "07": "7 工具和资源推荐 · Tools and resources",
    "08": "8 总结 · Summary",
    "09": "9 附录 · Appendix",
}
HEAD = """# Errata of the article

<!-- Written by data/make_errata.py from data/errata/*.json; edit those. -->

What the article prints, what is right, and where this book proves it: each entry names a chapter's cell that
shows it, and a test that fails should the correction stop being true. Entries `E…` are errors of statement or
design; entries `L…` are lines of the printed program that fail, or do nothing, when they run as printed.
Line numbers are the article's.
"""


def entries(path: Path) -> list[dict]:
    """The errata of one section, in the order of the file."""
    return json.loads(path.read_text(encoding="utf-8"))


def render_entry(entry: dict) -> str:
    """One erratum as Markdown."""
    notebook, cell = entry["chapter"].split("#")
    test_file, test = entry["test"].split("::")
    printed = entry["printed"] + (f" （原文：“{entry['printed_zh']}”）" if entry.get("printed_zh") else "")
    plural = "s" if any(mark in entry["lines"] for mark in ",–") else ""
    return "\n".join(
        [
            f"### {entry['id']} · section {entry['section']}, line{plural} {entry['lines']}",
            "",
            f"- **Printed:** {printed}",
            f"- **Right:** {entry['right']}",
            f"- **Source:** {entry['source']}",
            f"- **Shown in:** [{notebook}](chapters/{notebook}), cell `{cell}`",
            f"- **Held by:** [`{test}`]({test_file})",
        ]
    )


def render(folder: Path = ROOT / "data" / "errata") -> str:
    """The whole of ERRATA.md."""
    parts = [HEAD]
    for path in sorted(folder.glob("*.json")):
        parts.append(f"## {TITLES.get(path.stem, path.stem)}\n")
        parts += [render_entry(entry) + "\n" for entry in entries(path)]
    return "\n".join(parts)


if __name__ == "__main__":
    temporary = ROOT / "ERRATA.md.tmp"
    temporary.write_text(render(), encoding="utf-8")
    os.replace(temporary, ROOT / "ERRATA.md")
