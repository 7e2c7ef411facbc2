"""Use the model as it is: trained on 1 to L_train tokens, evaluated at any length.

Source: Gu and Dao, arXiv:2312.00752; as the default model of Rathjens et al.
"""

from lgbench.method import Method


class Vanilla(Method):
    """The baseline that every remedy is compared with."""
