"""`python -m alttrain`, the same as the console script `alttrain`."""

from alttrain.run.app import main

if __name__ == "__main__":
    main()
