"""The programs that deployment tools know take what the commands behind them take."""

import argparse
import importlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from panko_ingest.cli import aliases, main

PROGRAMS: dict[Callable[[], int], tuple[str, ...]] = {
    aliases.dbsync: ("db", "sync"),
    aliases.expirer: ("expire",),
}


def options(command: tuple[str, ...]) -> list[str]:
    """Return the options that a command declares, in all their spellings."""
    parser = argparse.ArgumentParser()
    importlib.import_module(main.COMMANDS[command[0]]).add_parser(parser.add_subparsers())
    for word in command:
        (below,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = below.choices[word]
    return [
        spelling for action in parser._actions for spelling in action.option_strings if action.dest != "help"
    ]


@pytest.fixture
def _logging_undone() -> Iterator[None]:
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


@pytest.mark.usefixtures("_logging_undone")
@pytest.mark.parametrize(
    ("program", "command", "option"),
    [
        pytest.param(program, command, option, id=f"{program.__name__} {option}")
        for program, command in PROGRAMS.items()
        for option in options(command)
    ],
)
def test_an_option_of_a_command_is_one_of_the_program_that_stands_for_it(
    program: Callable[[], int],
    command: tuple[str, ...],
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = []
    for name in ("by its name", "as a command"):
        folder = tmp_path / name
        folder.mkdir()
        file = folder / "panko-ingest.conf"
        file.write_text(
            f"[database]\nconnection = sqlite:///{folder}/events.sqlite\n"
            "[expirer]\ndead_letter_time_to_live = 0\n"  # which would tell of the time
        )
        main.main(["--config-file", str(file), "db", "sync"])
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", [program.__name__, option, "--config-file", str(file)])
        code = (
            program() if name == "by its name" else main.main(["--config-file", str(file), *command, option])
        )
        done.append((code, capsys.readouterr().out.replace(str(folder), "")))
    assert done[0] == done[1]
    assert done[0][0] == main.EXIT_OK
