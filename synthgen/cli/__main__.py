"""`python -m synthgen.cli`."""

from synthgen.cli import main

if __name__ == "__main__":
    main()
