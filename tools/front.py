"""What the front page takes from the report: the picture nbs/images/tsne.png, and the part of nbs/index.ipynb under
"What came out". Both are read from the outputs that nbs/24_report.ipynb stores, so they cannot differ from its page.
tools/readme.py calls this."""
import base64, html, re
from pathlib import Path
import nbformat

NBS = Path(__file__).parents[1]/'nbs'
HEADING = '## What came out'

def stop(what): raise SystemExit(f'nbs/24_report.ipynb: {what}. The front page needs it: see tools/front.py.')

def output(report, label, kind):
    "The stored output of one kind of the cell with that label"
    for cell in report.cells:
        if not re.search(rf'^#\| label: {label}$', cell.source, re.M): continue
        for data in (o.get('data', {}) for o in cell.outputs):
            if kind in data: return data[kind]
    stop(f'no {kind} is stored at {label}')

def picture(report):
    "The t-SNE of principal components and of the three models, as PNG"
    return base64.b64decode(output(report, 'fig-tsne', 'image/png'))

def claims(report):
    "What is measured, and the verdict, of each claim by its number"
    table = output(report, 'tbl-claims', 'text/html')
    rows = re.findall(r'<td>(\d+)\..*?</td>\s*<td>(.*?)</td>\s*<td>(.*?)</td>', table, re.S)
    return {int(number): (html.unescape(measured), html.unescape(verdict)) for number, measured, verdict in rows}

def find(pattern, text):
    "The parts of a sentence of the report"
    match = re.search(pattern, text, re.S)
    return match.groups() if match else stop(f'nothing like "{pattern}" is stored')

def conclusion(report):
    "The sentences under Conclusions"
    texts = [o['data'].get('text/markdown', '') for c in report.cells for o in c.get('outputs', []) if 'data' in o]
    return next((t for t in texts if t.startswith('Of the twelve claims')), '')

def came_out(report):
    "Markdown: the answer to the front page's question, in three sentences and a caution"
    accuracy, verdict = claims(report).get(9, ('', ''))
    if verdict != 'holds': stop('claim 9 (six numbers are enough) does not hold; the first sentence says it does')
    models, fifty = find(r'neighbours: (.*); fifty principal components (\S+)', accuracy)
    low, *_, high = sorted(re.findall(r'\d\.\d+', models))
    counts, = find(r'Of the twelve claims, (.*?)\. ', conclusion(report))
    best, nmi = find(r'median NMI is that of \*\*(.*?)\*\* \((\S+)\)', conclusion(report))
    accuracy = f'{low}, whatever the model' if low == high else f'{low} to {high}, depending on the model'
    least, most, spread = find(r'between (\S+) and (\S+), .* by up to (\S+) from seed', conclusion(report))
    no_rank = ' So these networks cannot be ranked.' if float(spread) > float(most) - float(least) else ''
    return f"""{HEADING}

- **Six numbers are enough to recognise a cell's type.** Its nearest neighbours among them name it with a balanced
  accuracy (the share of cells named rightly, averaged over types) of {accuracy}; among fifty principal components,
  {fifty}.
- **To find the types without being told them is harder**, and there {best} comes first: clusters of its picture,
  made by k-means, agree with the known types with an NMI of {nmi} (1 would be perfect), those of the three networks
  with {least} to {most}. From seed to seed, which is from one random start to another, one network differs by up to
  {spread}.{no_rank}
- **Of the report's [twelve claims](24_report.ipynb#twelve-claims)**, {counts}.

**A caution about the labels:** the known types of these cells are themselves clusters, made on principal components.
A good score of PCA is partly agreement with itself.
<!-- tools/front.py writes this part from the outputs of 24_report.ipynb -->"""

def update(nbs=NBS):
    "Write the picture, and the part of the front page, where they differ from what is there"
    report, index = (nbformat.read(nbs/name, 4) for name in ('24_report.ipynb', 'index.ipynb'))
    part = next(c for c in index.cells if c.source.startswith(HEADING))
    new = came_out(report)
    if part.source != new:
        part.source = new
        nbformat.write(index, nbs/'index.ipynb')
    file = nbs/'images/tsne.png'
    if not file.exists() or file.read_bytes() != picture(report): file.write_bytes(picture(report))

if __name__ == '__main__': update()
