"""A user's file that is called like a module which adam_mp needs: it is named once an import has failed because of it.

Python looks into the folder of a script, and with `python -m` into the present folder, before all others. So a
`json.py` that lies there is loaded in place of Python's own. This module imports only modules that Python has loaded
before it looks there.
"""

from __future__ import annotations

import os
import sys


class named_clash:  # noqa: N801, used like a function; contextlib could itself be the user's file
    """While entered, an exception that such a file has caused becomes an ImportError of one line with the file's name.

    All other exceptions pass through.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type | None, error: BaseException | None, __: object) -> None:
        if not isinstance(error, Exception) or (text := clash_in(error)) is None:
            return
        if sys.argv[:1] == ["-m"]:  # Python still looks for what `python -m` names, and would print a traceback
            print(f"adam_mp: error: {text}", file=sys.stderr)
            raise SystemExit(2) from None
        raise ImportError(text) from None


def clash_in(error: BaseException) -> str | None:
    """Return one line that names the file which has caused `error` by its name; None if there is no such file."""
    for file in _suspects(error):
        name, folder = _module_of(file)
        places = [os.path.abspath(entry) for entry in sys.path]
        if folder in places and _is_elsewhere(name, places[places.index(folder) + 1 :], folder):
            return f"{file} has the name of the module {name!r}, which adam_mp needs; rename it"
    return None


def _suspects(error: BaseException) -> list[str]:
    """Return the files of the modules that the message is about, and of those that were being imported."""
    files = []
    if isinstance(error, SyntaxError) and error.filename:
        files.append(error.filename)
    if isinstance(error, (ImportError, AttributeError)):
        for name, module in list(sys.modules.items()):
            if any(part in str(error) for part in (f"module '{name}'", f"from '{name}'", f"'{name}' is not a package")):
                files.append(getattr(module, "__file__", None) or "")
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "<module>":
            files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return [os.path.abspath(file) for file in reversed(files) if file.endswith(".py")]


def _module_of(file: str) -> tuple[str, str]:
    """Return the name of the top-level module in `file`, and the folder in which Python found it."""
    folder, name = os.path.split(file)
    if name == "__init__.py":
        folder, name = os.path.split(folder)
    return name.removesuffix(".py"), folder


def _is_elsewhere(name: str, places: list[str], folder: str) -> bool:
    """Tell whether one of `places` has a module of this name too, or whether Python has one built in."""
    if name in sys.builtin_module_names:
        return True
    if folder == os.path.dirname(os.path.abspath(os.__file__)) or name == "adam_mp":
        return False
    finder = sys.modules["_frozen_importlib_external"].PathFinder
    return finder.find_spec(name, places) is not None
