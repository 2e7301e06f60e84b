"""How far a command is, on a terminal."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress


@contextlib.contextmanager
def shown(what: str, *, worthwhile: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show how much is done while it is; what it yields takes how much is, and of how much.

    :param worthwhile: whether it takes long enough to be shown.
    """
    console = Console(stderr=True)
    if not (worthwhile and console.is_terminal):
        # Releases of rich before 14.3 write an empty line even for what they do not show.
        yield lambda _done, _total: None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
