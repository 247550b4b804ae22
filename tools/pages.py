"""What happens to a notebook on its way to the site, beside nbdev's own steps (`procs` and `skip_procs` in
settings.ini)."""

def default_exp_(cell, module):
    "Drop the cell that only names the module; exported code stays, for it is what the page explains"
    del cell['source']
