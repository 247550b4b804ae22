"""Write README.md from nbs/index.ipynb: `python tools/readme.py README.md`. What the front page takes from the report
is brought up to date first (tools/front.py). The test in tests/test_in_step.py runs it too."""
import re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter
import front

nbs = Path(__file__).parents[1]/'nbs'
front.update(nbs)
nb = nbformat.read(nbs/'index.ipynb', 4)
nb.cells = [c for c in nb.cells if c.cell_type != 'raw' and not re.match(r'#\|\s*(hide|default_exp)', c.source)]
for c in nb.cells:
    if c.cell_type == 'code': c.source = re.sub(r'^#\|.*\n', '', c.source, flags=re.M)
    else: c.source = re.sub(r'(\]\(|src=")(?![a-z]+:|#|/)', r'\1nbs/', c.source)  # links in the notebook start at nbs/
md, res = MarkdownExporter().from_notebook_node(nb)
if res.get('outputs'):
    raise SystemExit('nbs/index.ipynb: it has a picture as output, which README.md cannot hold. Link to an image file.')
Path(sys.argv[1]).write_text(md.strip() + '\n', encoding='utf-8')
