"""Run folders -> one tidy table -> tables, figures, the page and model cards, in outputs/report/. No torch.

- `results`     reads run folders: judged benchmarks, their rows, and all numbers as one tidy pandas frame
- `measures`    what each measure is called, which way is better, and its unit
- `variants`    runs that differ in their seed alone, and columns of numbers that were made alike
- `estimates`, `comparisons`  estimates over seeds and sets, and each run against No-train
- `published`   the figures that the paper and others report, with their sources
- `tables`      which tables there are, and their cells
- `formats`, `escaping`       a table as Markdown, LaTeX, CSV and for the console
- `figures`     what is drawn; matplotlib is imported when something is
- `page`, `samples`           the page, of page.html, page.css and page.js
- `card`        the model card of what a run trained
- `snapshot`    files that hold still while a report is made, and how it is put in place
"""
