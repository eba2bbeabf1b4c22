"""The conformance kit: judge any implementation clause by clause, and the judge by known wrong ones."""
