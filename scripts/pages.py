"""Let this environment import kanbook, the code of the book's pages, from any folder."""

import sysconfig
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1] / "book"

if __name__ == "__main__":
    target = Path(sysconfig.get_path("purelib")) / "kanbook.pth"
    target.write_text(f"{BOOK}\n", encoding="utf-8")
