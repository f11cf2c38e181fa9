"""Write images, audio and text as files.

A value becomes DIR/run/tag/step.png (.jpg, .gif, .webp, .bmp, .wav, .txt), its bytes as they were
written; several of one step are numbered. Names that are no paths below DIR, or that differ in case
alone, are changed. No file is replaced. A value that repeats one string is reported, not written.

Examples::

  tb-firstloss extract runs -o media
  tb-firstloss extract runs --tag 'samples/*' --steps 0:1000 -o media
"""

import argparse
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tb_firstloss.cli.arguments import add_shared, name_of, note
from tb_firstloss.cli.exit_codes import FINDING
from tb_firstloss.cli.output import printable
from tb_firstloss.cli.progress import bar
from tb_firstloss.errors import some_of
from tb_firstloss.reading.damage import Report, reporter, unreadable
from tb_firstloss.reading.logdir import iter_selected
from tb_firstloss.reading.selection import Selection
from tb_firstloss.reading.tensor_datum import TensorDatum

_LONGEST_PART, _LONGEST_PATH = 100, 500  # bytes; file systems allow 255 and 4096
_IMAGES = {b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}
_PLUGINS = frozenset({"images", "audio", "text"})
_LIKE_A_FILE = re.compile(r"-?\d+(-\d+)?\.\w+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_shared(parser, "paths")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="where to write"
    )
    add_shared(parser, "--steps", "--run", "--tag", "--quiet")


def run(options: argparse.Namespace) -> int:
    """Writes the files; exit code 1 when there is nothing to write."""
    target = _Target(options.output)
    selection = Selection.of(options.runs, options.tags, options.steps, views=True)
    with bar("Extracting", quiet=options.quiet):
        for path in options.paths:
            report = reporter("warn")
            for datum in iter_selected(path, selection, report):
                for ending, content in _contents(datum, path, report):
                    target.write(name_of(options, path, datum.run), datum, ending, content)
    if target.renamed:
        note(options, f"not named as their tags: {printable(some_of(target.renamed))}")
    note(options, printable(f"{options.output}: {target.count} files"))
    return 0 if target.count else FINDING


def _contents(datum: TensorDatum, path: str, report: Report) -> Iterator[tuple[str, bytes]]:
    """Yields the encoded contents of a value, each with the ending of its file's name."""
    value = datum.value
    if value.dtype != object or not value.size or datum.plugin_name not in _PLUGINS:
        return
    if not value.flags.writeable:  # a few bytes of the file would become any number of them
        where = f"run {datum.run}, tag {datum.tag}, step {datum.step}"
        report(unreadable(path, f"{where}: one string for {value.size} is not extracted"))
    elif datum.plugin_name == "images":  # width, height, image, image, …
        for image in value.ravel()[2:]:
            known = (ending for magic, ending in _IMAGES.items() if image.startswith(magic))
            yield next(known, ".png"), image
    elif datum.plugin_name == "audio":  # [k, 2]: sound and label
        for sound in (value[..., 0] if value.ndim > 1 else value).ravel():
            yield ".wav", sound
    else:
        yield ".txt", b"\n".join(value.ravel())


class _Target:
    """A directory that has one for the files of each run and tag.

    Attributes:
        count: Files that were written or found there.
        renamed: Directories that are not named as the tag.
    """

    def __init__(self, root: Path) -> None:
        self.count = 0
        self.renamed: list[str] = []
        self._root = root
        self._folders: dict[tuple[str, str], Path] = {}
        self._taken: set[str] = set()
        self._used: Counter[str] = Counter()  # how many have been named after a path

    def write(self, run: str, datum: TensorDatum, ending: str, content: bytes) -> None:
        """Writes a file, unless an earlier extraction did."""
        folder = self._folders.get((run, datum.tag)) or self._make_folder(run, datum.tag)
        self.count += 1
        for name in self._numbered(f"{folder}/{datum.step}"):
            path = Path(f"{name}{ending}")
            try:
                _write_new(path, content)
            except FileExistsError:
                if not path.is_file() or path.read_bytes() != content:
                    continue
            return

    def _make_folder(self, run: str, tag: str) -> Path:
        name = tag if run == "." else f"{run}/{tag}"
        for path in self._numbered(safe_path(name)):
            if _folded(path) not in self._taken:
                break
        self._taken.add(_folded(path))
        folder = self._folders[run, tag] = self._root / path
        if path != name:
            self.renamed.append(f"{folder} ({name})")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _numbered(self, name: str) -> Iterator[str]:
        """Yields the names to try for one more of a name, of which no two are equal."""
        key = _folded(name)
        while True:
            self._used[key] += 1
            yield name if self._used[key] == 1 else f"{name}-{self._used[key]}"


def _write_new(path: Path, content: bytes) -> None:
    """Writes a new file, whole or not at all: a later extraction takes what is there for whole."""
    file = path.open("xb")
    try:
        with file:
            file.write(content)
    except BaseException:
        path.unlink()
        raise


def _folded(path: str) -> str:
    """Returns a path as file systems compare it that ignore case and how accents are written."""
    return unicodedata.normalize("NFKC", path).casefold()


def safe_path(name: str) -> str:
    """Returns a relative path that leads nowhere but down on any file system, for any name."""
    path = "/".join(map(_safe_part, name.split("/")))
    shorter = _cut(path, _LONGEST_PATH)
    return path if shorter == path else shorter.rpartition("/")[0]


def _safe_part(part: str) -> str:
    kept = "".join(c if c.isprintable() and c not in '\\:*?"<>|' else "_" for c in part)
    kept = _cut(kept, _LONGEST_PART).rstrip(" .") or "_"
    return f"{kept}_" if _LIKE_A_FILE.fullmatch(kept) else kept


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")
