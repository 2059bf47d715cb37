"""The airfoil self-noise table of the chapter: found, checked, standardised."""

import functools
import hashlib
import io
from pathlib import Path

NAME = "airfoil_self_noise.dat"
SHA256 = "74c75fd71783f1e6b71f8a622b993dc592897a97cd689c5090a07147a1b097b3"
# In a clone the file lies beside the package, where d2l looks from the chapter; in a wheel, in it.
_HERE, _ROOT = Path(__file__).parent, Path(__file__).parents[1]
FOLDERS = (_ROOT / "data", _HERE) if (_ROOT / "pyproject.toml").is_file() else (_HERE,)


def path() -> Path:
    """Return where the table is, once its content is known to be right.

    Raises FileNotFoundError if it is nowhere, ValueError if it was changed.
    """
    return _checked()[0]


def _checked():
    """The file and its content."""
    for file in (folder / NAME for folder in FOLDERS):
        if file.is_file():
            content = file.read_bytes()
            if (found := hashlib.sha256(content).hexdigest()) != SHA256:
                raise ValueError(
                    f"{file} is damaged: its SHA-256 is {found}, it should be {SHA256}; "
                    f"restore it (in a clone: git checkout -- data/{NAME}; else reinstall d2l_adam)"
                )
            return file, content
    raise FileNotFoundError(
        f"{NAME} is missing; put it into {' or '.join(map(str, FOLDERS))} "
        "(it is part of this project's repository and of its wheel)"
    )


def airfoil():
    """Return the features (1500, 5) and the sound pressure (1500, 1), float64, without units.

    As in `d2l.get_data_ch11`: every column is standardised over all 1503 rows, then the first 1500
    are kept. Standardised in float64, so that every dtype starts from the same numbers.
    """
    return _standardised(_checked()[1])


@functools.cache
def _standardised(content):
    import numpy

    table = numpy.loadtxt(io.BytesIO(content), delimiter="\t")
    table = (table - table.mean(axis=0)) / table.std(axis=0)
    table.flags.writeable = False
    return table[:1500, :-1], table[:1500, -1:]
