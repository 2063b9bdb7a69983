"""What operators' documents say, for tests that hold them to it: sections, tables, links, shell blocks."""

import re
from collections.abc import Iterator


def sections(text: str) -> dict[str, str]:
    """{heading: what stands below it up to the next of the same level or above}, of `##` headings."""
    parts = re.split(r"^## +(.*)$", without_code(text, keep=True), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def rows(text: str) -> list[list[str]]:
    """Cells of all tables' rows, without headers and rulers."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    found = []
    for above, line in zip(["", *lines], lines):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        if re.fullmatch(r"[|\s:-]+", line):
            found.pop()  # what stands above a ruler is a header
        elif above is not None:
            found.append(cells)
    return found


def without_code(text: str, keep: bool = False) -> str:
    """Without fenced blocks, whose # and [] mean nothing here; `keep`: with them, but for their headings."""
    return re.sub(r"^```.*?^```$", lambda block: block[0].replace("\n## ", "\n# ") if keep else "", text,
                  flags=re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[str]:
    """Fenced blocks, without their fences."""
    return re.findall(r"^```[a-z]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Lines of all fenced blocks that are commands: continued lines joined, comments gone."""
    joined = "\n".join(blocks(text)).replace("\\\n", " ")
    lines = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in joined.splitlines())
    return [re.sub(r"\s+", " ", line) for line in lines if line]


def links(text: str) -> Iterator[str]:
    """Targets of all links and pictures."""
    for match in re.finditer(r"!?\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", without_code(text))):
        yield match[1]


def anchors(text: str) -> set[str]:
    """Names of the headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ +(.*)$", without_code(text), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        found.add(re.sub(r"\s", "-", plain))
    return found
