"""The tree keeps the layout rules."""

import sys

import layout_lint

violations = layout_lint.check(".")
for violation in violations:
    print(violation)
print(f"{len(violations)} violations")
sys.exit(1 if violations else 0)
