"""Run folders -> outputs/report/page.html: tables, figures and every sample in one file that needs no server.

Text of models is hostile until shown otherwise: the page's policy forbids everything but its own script and style, and
what a model wrote is embedded as data and drawn as text.

- `writing`  assembles the page from the assets beside it (page.html, page.css, page.js)
- `tables`, `notes`, `figures`  what stands above the samples
- `samples`, `outcomes`         what is embedded of each run and benchmark
"""

from alttrain.report.page.writing import write_page

__all__ = ["write_page"]
