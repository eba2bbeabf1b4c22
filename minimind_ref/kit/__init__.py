"""The conformance kit: judges anybody's implementation, clause by clause, and says which known bug it looks like.

    from minimind_ref.kit import check
    print(check("rms_norm", my_rms_norm, arrays="torch"))

Source: specs/ says what must hold, golden/ has the recorded cases; README.md beside this file shows how to begin.
"""

from minimind_ref.kit.implementation import Implementation
from minimind_ref.kit.report import Report, Verdict
from minimind_ref.kit.verify import check, verify

__all__ = ["Implementation", "Report", "Verdict", "check", "verify"]
