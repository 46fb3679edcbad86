"""The command line: `python -m companion`, or `companion`, and the name of a command."""

import argparse
import os
import sys
from collections.abc import Sequence

from companion import __version__
from companion.commands import add_commands
from companion.doctor import doctor
from companion.training_command import add_train

EXAMPLES = """examples:
  companion doctor
  companion train reviews.csv --model reviews-model
  companion predict --model reviews-model "a lovely book"
  companion translate "Monday, May 4, 2026"
  companion translate --file sentences.txt
  companion generate --temperature 0.7 --seed 1 "Return the"
  companion serve

Without --model, predict, translate, generate and serve use what the chapters leave:
make chapters CHAPTER=05_2 (predict), 03_2 (translate), 03_4 (generate).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Words after the program's name; None takes them from the command line.
    Returns:
        The exit code: 0 done, 1 failed, 130 interrupted. Bad usage exits with 2.
    """
    options = _parser().parse_args(arguments)
    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):  # UTF-8 as the texts are, whatever the terminal says
            stream.reconfigure(encoding="utf-8", errors=errors)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, ImportError) as error:
        print(f"companion {options.command}: {error}", file=sys.stderr)
        return 1


def _parser():
    whole = {"epilog": EXAMPLES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("companion", description="Tools of the companion package.", **whole)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    about = "check the installation; exit code 1 if something is wrong"
    commands.add_parser("doctor", help=about, description=about).set_defaults(run=doctor)
    add_train(commands)
    add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
