"""`python -m pharos`: the command line, also for launchers such as torchrun."""

from pharos.cli import main

if __name__ == "__main__":
    main()
