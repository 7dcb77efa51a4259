"""Run folders -> one tidy table -> tables, figures, the page and model cards, in outputs/report/. No torch.

- `results`    reads run folders: judged benchmarks, their rows, and all numbers as one tidy pandas frame
- `measures`   what each measure is called, which way is better, and its unit
- `variants`   groups of runs that differ only in their seed, and columns of numbers made in the same way
- `estimates`  the number of a group in a column, over seeds and benchmarks, and each run against No-train
- `published`  the figures that the paper and others report, with their sources
- `tables`     the tables, each a tidy frame of cells, and everything that a report shows
- `formats`    a table as Markdown, LaTeX and for the console; `escaping` of names and texts
- `figures`    matplotlib is imported when one is drawn
- `page`       made from page.html, page.css and page.js, with its `samples`
- `card`       the model card of a trained adapter or model
- `snapshot`   a consistent copy of the inputs, and the atomic swap of the report folder
"""
