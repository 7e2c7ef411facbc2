"""Answer from rows what people ask of a benchmark: what changed, did it get worse, may these rows come in.

Everything here reads the store, and files of the same form; nothing is trained.
"""
