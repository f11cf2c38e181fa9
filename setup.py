"""What pyproject.toml cannot say: the compiled reader, and the README as a package page needs it.

With TB_FIRSTLOSS_PURE set, the compiled reader is left out and the wheel fits every platform.
Without a compiler the installation succeeds as well; reading then runs on its Python reference.
"""

import os
import re
from pathlib import Path

from setuptools import Extension, setup

REPOSITORY = "https://github.com/tb-firstloss/tb-firstloss"
_LOCAL_LINK = re.compile(r"(!?)(\[[^]]*\])\((?!\w+:|#)([^)]*)\)")


def read_readme() -> str:
    """Returns README.md with absolute links, since a package page has no folder around it."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    return _LOCAL_LINK.sub(
        lambda m: f"{m[1]}{m[2]}({REPOSITORY}/{'raw' if m[1] else 'blob'}/HEAD/{m[3]})", text
    )


scan = Extension(
    "tb_firstloss.reading.format._scan", ["tb_firstloss/reading/format/_scan.pyx"], optional=True
)
setup(
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    ext_modules=[] if os.environ.get("TB_FIRSTLOSS_PURE") else [scan],
)
