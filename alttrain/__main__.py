"""`python -m alttrain` is the console script `alttrain`."""

from alttrain.run.app import main

if __name__ == "__main__":
    main()
