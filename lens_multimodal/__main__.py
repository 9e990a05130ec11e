"""`python -m lens_multimodal`: the command line."""

from lens_multimodal.cli import main

if __name__ == "__main__":
    main()
