"""The stages' scripts as steps that are run one after the other, and left out where what they make is there."""

from dataclasses import dataclass
from pathlib import Path

from utils.script_runner import run_script


@dataclass(frozen=True)
class Step:
    """One call of a script.

    Attributes:
        title: what it does.
        script: its path from the root.
        options: of its command line.
        output: the file that it makes; where that is there, the step is done.
        folder: the folder in which it leaves its checkpoint instead, under a name of its own; it becomes ``output``.
    """

    title: str
    script: str
    options: tuple[object, ...]
    output: Path
    folder: Path | None = None

    def is_done(self) -> bool:
        """Return whether there is nothing left to do."""
        return self.output.exists()

    def run(self) -> None:
        """Run the script and let it print; a training that was interrupted goes on.

        Raises:
            ToolkitError: it failed.
        """
        unfinished = self.folder is not None and any(self.folder.glob("*_unfinished.state"))
        run_script(self.script, [*self.options, *(["--resume"] if unfinished else [])])
        if self.folder is not None:
            made = max(self.folder.glob("*.pth"), key=lambda path: path.stat().st_mtime_ns)
            made.replace(self.output)
