"""Run folders -> one tidy table -> tables, figures, the page and model cards, in outputs/report/. No torch.

- `results`     reads run folders: judged benchmarks, their rows, and all numbers as one tidy pandas frame
- `measures`    what each measure is called, which way is better, and its unit
- `variants`    groups of runs that differ only in their seed, and columns of numbers made in the same way
- `estimates`, `comparisons`  estimates over seeds and benchmarks, and each run against No-train
- `published`   the figures that the paper and others report, with their sources
- `cells`, `tables`           the number in each cell, and the tables
- `frames`      all frames of a report, each computed once
- `formats`, `escaping`       a table as Markdown, LaTeX, CSV and for the console
- `figures`, `tradeoff`, `drawing`  the figures and their look; matplotlib is imported when one is drawn
- `page`, `samples`           the page, made from page.html, page.css and page.js
- `card`        the model card of a trained adapter or model
- `snapshot`    a consistent copy of the inputs, and the atomic swap of the report folder
"""
