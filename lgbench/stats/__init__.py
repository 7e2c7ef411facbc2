"""Conclude from rows: scores, how sure they are, and a ranking that cannot be won by failing.

Pure numpy, pandas and scipy; torch is never imported. The formulas are those of the house plan, "Numbers that
may be trusted"; each function names its own.
"""
