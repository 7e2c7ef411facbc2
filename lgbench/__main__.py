"""`python -m lgbench` is `lgbench`."""

from lgbench.cli import main

if __name__ == "__main__":
    main()
