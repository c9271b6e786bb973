"""What can be asked of one machine, in one question and one answer, here or by way of its agent.

A question is the name of a function in one of the modules of this folder, which is imported when it is first asked:
most connections ask none. The answer is a NamedTuple, which JSON can carry.
"""

from importlib import import_module
from typing import Any, Dict

from ..wire.fields import NAME_RULES, PATH, SIZE, TIME, arguments, flag, listed, maybe, row, text

QUERIES = {
    "host": ".system",
    "kernel": ".kernel",
    "stores": ".stores.stores",
    "survey": ".survey",
    "probe": ".probe",
    "trial": ".examples.trial",
    "in_use": ".in_use",
    "suggested": ".presets",
    "sizes": ".files",
    "sparse": ".files",
    "forbidden": ".files",
    "identity": ".files",
    "flush": ".files",
    "entry": ".files",
    "make_directory": ".files",
    "totals": ".files",
    "remove": ".files",
    "run": ".shell",
}

_PLACES = maybe(listed(row(PATH, PATH, text(100), text(1000))))
_ARGUMENTS = {
    "host": {"rsync": maybe(PATH)},
    "kernel": {"wanted": listed(text(100), 100)},
    "stores": {"source": PATH},
    "survey": {
        "source": PATH,
        "one_file_system": maybe(flag),
        "places": _PLACES,
        "rules": maybe(NAME_RULES),
    },
    "probe": {"path": PATH, "largest": maybe(SIZE)},
    "trial": {"path": PATH, "examples": listed(row(text(20), text(1), PATH, PATH, TIME), 10000)},
    "in_use": {"sources": listed(PATH), "places": _PLACES},
    "suggested": {"source": PATH},
    "sizes": {"paths": listed(PATH)},
    "sparse": {"paths": listed(PATH)},
    "forbidden": {"paths": listed(PATH)},
    "identity": {"path": PATH},
    "flush": {"path": PATH},
    "entry": {"path": PATH},
    "make_directory": {"path": PATH, "exist_ok": flag},
    "totals": {"path": PATH},
    "remove": {"path": PATH, "latest": TIME},
    "run": {"command": PATH},
}  # type: Dict[str, Dict[str, Any]]


def answer_query(question: str, **given: Any) -> Any:
    """Return this machine's answer. Raises ValueError for an unknown query, and what the function raises."""
    if question not in QUERIES:
        raise ValueError("unknown query {!r}".format(question))
    return getattr(import_module(QUERIES[question], __package__), question)(**given)


def checked(question: str, given: Dict[str, Any]) -> Dict[str, Any]:
    """Return the arguments of a query from another machine, once they are checked. Raises ValueError."""
    return arguments(given, _ARGUMENTS[question])
