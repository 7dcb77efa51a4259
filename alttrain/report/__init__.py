"""Run folders -> one tidy table -> tables, figures, the page and model cards, in outputs/report/. No torch.

`results` reads the runs, `variants` groups them into rows and columns, `estimates` makes the numbers and `contrasts`
their differences, `tables` puts both beside `published` figures, and `formats`, `figures` and `page` show them.
`output` replaces the report folder.
"""
