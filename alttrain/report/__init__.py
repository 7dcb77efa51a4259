"""Run folders -> one tidy table -> tables, figures, the page and model cards, in outputs/report/. No torch.

`evaluation` reads a judged benchmark and `results` all runs, `variants` groups them into rows and columns, `estimates`
makes the numbers and `contrasts` their differences, `tables` puts both beside `published` figures, and `formats`,
`figures` (by `drawing`, `tradeoff` and `probes`) and `page` (with samples by `embedded`) show them. `output` puts the
files in place.
"""
