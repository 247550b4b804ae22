"""What happens to a notebook on its way to the site, beside nbdev's own steps (`procs` and `skip_procs` in
settings.ini).

Each exported name gets its reference (signature, parameters, a link to its source) at an anchor of its own, with the
code folded under it. Imports and tests are folded too, so that a page is read as text and examples."""
import ast, base64, importlib, re, sys
from functools import lru_cache
from itertools import groupby
from io import BytesIO
from pathlib import Path
from nbdev.doclinks import NbdevLookup, patch_name
from nbdev.process import Processor
from nbdev.showdoc import BasicMarkdownRenderer
from execnb.nbio import mk_cell, read_nb
from PIL import Image, ImageChops, ImageStat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))    # the package of this checkout is the one that is described
REPO = 'scvae-nb/scvae_nb'
MAX_CHANGE = 1.5                 # of 255, by which the pixels of a picture may change on average
LONG = 12                        # lines of an example that stay open
CHECKS = ('assert', 'test_', 'expect_raises', 'raises')
PICTURES = ('image/png', 'image/svg+xml')
WIDGET = 'application/vnd.jupyter.widget-view+json'    # a stored progress bar
READ = {'report', 'beyond'}      # modules whose page is read as a text: all that shows nothing is folded there
OURS = re.compile(r'^\S+:\d+: ((?:Data|Latent)Warning: .*)$', re.M)

def default_exp_(cell, module):
    "Drop the cell that only names the module"
    del cell['source']

# ---- what a cell is

def lines(source): return [l for l in source.splitlines() if l.strip() and not l.startswith('#|')]

def tree(cell):
    "The cell's statements; none where it is not plain Python"
    try: return ast.parse(re.sub(r'^\s*[%!].*$', '', cell.source, flags=re.M)).body
    except SyntaxError: return []

def is_imports(cell):
    nodes = tree(cell)
    return bool(nodes) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes)

def checks(cell):
    "Statements of a cell that can fail: assertions, and calls of a test's functions"
    def is_check(node):
        if isinstance(node, ast.Assert): return True
        calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
        names = [ast.unparse(c.func) for c in calls]
        return any(name.startswith(CHECKS) or '.testing.' in name for name in names)
    return [n for n in tree(cell) if is_check(n)]

def has_picture(cell):
    data = [o.get('data', {}) for o in cell.get('outputs', [])]
    turns = any('plotly-graph-div' in str(d.get('text/html')) for d in data)
    return turns or any(k in PICTURES for d in data for k in d)
def is_silent(cell): return re.search(r'^#\|\s*output:\s*false', cell.source, re.M) is not None
def has_output(cell): return bool(cell.get('outputs')) and not is_silent(cell)
def has_words(cell): return any('text/markdown' in o.get('data', {}) for o in cell.get('outputs', []))
def is_table(cell): return re.search(r'^#\|\s*label:\s*tbl-', cell.source, re.M) is not None

def public(cell):
    "Public names that a cell defines: `load`, `CSRBatch`, and `CSRBatch.take` for a method that is patched in"
    names = []
    for node in tree(cell):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names += patched_names(node)
        if isinstance(node, ast.Assign): names += [t.id for t in node.targets if isinstance(t, ast.Name)]
    return [n for n in names if not any(part.startswith('_') for part in n.split('.'))]

def patched_names(node):
    name = patch_name(node) if isinstance(node, ast.FunctionDef) else None
    return ([name] if isinstance(name, str) else list(name)) if name else [node.name]

# ---- the reference of a name

@lru_cache
def lookup(): return NbdevLookup()

def find(module, name):
    "The object behind `Class.method` of one of our modules"
    found = importlib.import_module(f'scvae_nb.{module}')
    for part in name.split('.'): found = getattr(found, part, None)
    return found

def is_documented(found): return callable(found) or isinstance(found, property)
@lru_cache
def places():
    "Public name -> (page, anchor). The anchor is in lower case, as nbdev links it, unless two names would share it"
    found = {}
    for notebook, _, module, names in modules():
        documented = [n for n in names if is_documented(find(module, n))]
        taken = {n for n in documented if n.islower()}
        for n in documented: found[n] = page_of(notebook), n if n.lower() in taken else n.lower()
    return found

LINK = re.compile(r'\[`([^`\]]+)`\]\((?:https://scvae-nb\.github\.io/scvae_nb/)?(\w+\.html)#([\w.]+)\)')

def own_links(text):
    "Links that nbdev makes of back-ticked names lead to the name's place; a name without one is no link"
    def link(m):
        name, page, _ = m.groups()
        name = name.removesuffix('()')
        here = places().get(name)
        if here is None: here = next((p for n, p in places().items() if p == (page, m[3])), None)
        return f'[`{m[1]}`]({here[0]}#{here[1]})' if here else f'`{m[1]}`'
    return LINK.sub(link, text)

def free_headings(text, page, used):
    "A heading is no link; one whose own anchor would be that of a name gets another, which no other one has (`used`)"
    taken = {a for p, a in places().values() if p == page}
    def heading(m):
        line = re.sub(r'\[(`[^`]+`)\]\([^)]*\)', r'\1', m[0])
        words = re.sub(r'[^\w\s.-]', '', line.lstrip('# ').lower()).strip()
        slug = re.sub(r'\s+', '-', words)
        if slug not in taken or '{#' in line: return line
        used.append(slug)
        more = f'-{used.count(slug)}'*(used.count(slug) > 1)
        return f'{line} {{#about-{slug}{more}}}'
    return re.sub(r'^#{1,6} .*$', heading, text, flags=re.M)

def reference(module, name):
    "Markdown of a name: its heading line with a link to the source, its signature, what it does"
    found = find(module, name)
    if not is_documented(found): return None
    if isinstance(found, property): found = found.fget
    body = super(BasicMarkdownRenderer, BasicMarkdownRenderer(found, name=name))._repr_markdown_()
    body = body.replace(':NoneType=None', '=None')
    source = lookup().code(name) or lookup().code(f'scvae_nb.{module}.{name}') or ''
    link = f'[source]({source}){{.source}}' if source else ''
    text = own_links(lookup().linkify(body.strip()))
    return f'::: {{#{places()[name][1]} .api}}\n[`{name}`]{{.api-name}} {link}\n\n{text}\n:::'

# ---- folds

def shows(cell):
    "Whether a cell is text, or code with something to see; the reference of a name is neither"
    return has_output(cell) if cell.cell_type == 'code' else 'names_' not in cell

def gathered(cells):
    "On a page that is read as a text: references, code and tests between two texts as one fold"
    out = []
    for visible, run in groupby(cells, shows):
        run = list(run)
        names = [n for c in run for n in c.get('names_', [])]
        if visible or not names: out += run
        else: out += [note(opening(f"Code: {', '.join(names)}")), *run, note('```{=html}\n</details>\n```')]
    return out

def opening(summary): return f'```{{=html}}\n<details class="code-fold"><summary>{summary}</summary>\n```'

def fold(cell, summary):
    "A code cell that is closed under a line that says what is in it"
    own = {m[1] for m in re.finditer(r'^#\|\s*([\w-]+):', cell.source, re.M)}
    if 'code-fold' in own: return
    cell['source'] = f'#| code-fold: true\n#| code-summary: "{summary}"\n' + cell.source

def fold_name(cell, names):
    "What stands on the fold of a cell; nothing where it stays open"
    if is_imports(cell): return 'Imports'
    if 'export' in cell.directives_ or 'exporti' in cell.directives_:
        return f"Source of {', '.join(names)}" if names else 'Source'
    if has_picture(cell): return 'How this figure is drawn'
    if is_table(cell): return 'How this table is made'
    if has_words(cell): return 'How this is computed'
    if checks(cell) and not has_output(cell): return 'Tests'
    if len(lines(cell.source)) > LONG: return 'How this is computed'

def joins(before, cell):
    "Two folds of the same name, one after the other, neither of which shows anything"
    same = before.get('fold') == cell.get('fold') and before.get('fold') in ('Imports', 'Tests')
    return same and not has_output(before) and not has_output(cell)

# ---- what a page does not need

def lighten(cell):
    "No scripts from elsewhere (a stored progress bar would load some), no warnings of libraries, smaller pictures"
    kept = [o for o in cell.get('outputs', []) if WIDGET not in o.get('data', {}) and not is_noise(o)]
    if 'outputs' in cell: cell['outputs'] = kept
    for o in kept:
        data = o.get('data', {})
        if 'text/html' in data: data['text/html'] = claims_table(own_plotly(text_of(data['text/html'])))
        if 'text/markdown' in data: data['text/markdown'] = claim(own_links(text_of(data['text/markdown'])))
        if 'image/png' in data: data['image/png'] = small_png(text_of(data['image/png']))

def is_noise(output):
    "Whether nothing that was written to the error stream is a warning of ours; of those the place is left out"
    if output.get('name') != 'stderr': return False
    output['text'] = '\n'.join(OURS.findall(text_of(output['text'])))
    return not output['text']

def small_png(data):
    "A picture in 256 colours, a third of the size, unless that shows"
    picture = Image.open(BytesIO(base64.b64decode(data))).convert('RGB')
    small = picture.quantize(256, dither=Image.Dither.NONE)
    change = ImageStat.Stat(ImageChops.difference(picture, small.convert('RGB'))).mean
    if max(change) > MAX_CHANGE: return data
    out = BytesIO()
    small.save(out, 'png', optimize=True)
    return base64.b64encode(out.getvalue()).decode()

def text_of(value): return value if isinstance(value, str) else ''.join(value)

def own_plotly(html):
    "A 3-D figure is drawn by plots.js, with plotly.js from the site itself, when it comes into view"
    if 'plotly-graph-div' not in html: return html
    html = re.sub(r'<script[^>]*src="https://cdn\.plot\.ly[^>]*></script>', '', html)
    html = re.sub(r'<script[^>]*>\s*window\.PlotlyConfig.*?</script>', '', html, flags=re.S)
    html = re.sub(r'<script(?: type="text/javascript")?>', '<script type="text/x-plot">', html)
    return f'<div class="plot-3d">{html}</div>\n<script src="plots.js" defer></script>'

# ---- the report's claims: each in a frame, its verdict in one of three colours

CLAIM = re.compile(r'(\*\*Claim \d+: .*?\*\*) (.*?)\n\nHere: (.*)\. Verdict: \*\*(.*)\*\*\.', re.S)
VERDICTS = {'holds': 'holds', 'does not hold': 'fails'}     # any other is qualified

def verdict(text):
    "(what stands out, its class, what is said of it beside)"
    short, more = re.match(r'([^;:,]*)[;:,]?(.*)', text, re.S).groups()
    return short, VERDICTS.get(text, 'qualified'), more

def claim(text):
    "A claim as its sentence, its rule, what was measured, and the verdict"
    found = CLAIM.fullmatch(text.strip())
    if not found: return text
    short, kind, more = verdict(found[4])
    return (f'::: claim\n{found[1]}\n\n{found[2]}\n\n**Here:** {found[3]}.\n\n'
            f'[{short}]{{.verdict .{kind}}}{more}\n:::')

def claims_table(page):
    "The verdicts of the table of claims, which are its last column"
    if not re.search(r'class="[^"]*\bclaims\b', page): return page
    def last(cell):
        short, kind, more = verdict(cell[1])
        return f'<td><span class="verdict {kind}">{short}</span>{more}</td>{cell[2]}'
    return re.sub(r'<td>([^<]*)</td>(\s*</tr>)', last, page)

class Page(Processor):
    "The whole of a notebook: references, folds, links to the notebook"
    def begin(self):
        nb, self.used = self.nb, []
        module = next((c.directives_['default_exp'][0] for c in nb.cells if 'default_exp' in c.directives_), None)
        nb.metadata.pop('widgets', None)
        first, *rest = [new for c in nb.cells for new in self.written(c, module)]
        links = [note(notebook_links(Path(nb.path_).name))] if getattr(nb, 'path_', None) and module else []
        cells = joined([first, *links, *rest])
        nb.cells = gathered(cells) if module in READ else cells
        for i, c in enumerate(nb.cells): c.idx_ = i

    def written(self, cell, module):
        "A cell of the notebook as cells of the page"
        if cell.cell_type == 'markdown':
            source = own_links(cell.source.replace('<!-- reference -->', index_by_page()))
            cell['source'] = free_headings(source, page_of(Path(self.nb.path_).name), self.used)
            return [cell]
        if cell.cell_type != 'code' or not cell.source: return [cell]
        lighten(cell)
        names = public(cell) if module and 'export' in cell.directives_ else []
        summary = fold_name(cell, names) or ('How this is computed' if module in READ else None)
        if summary: cell['fold'] = summary
        docs = [note(d, names_=[n]) for n in names if (d := reference(module, n))]
        return [*docs, cell]

def notebook_links(name):
    "Where the notebook behind a page can be had, and run"
    download = f'https://github.com/{REPO}/raw/main/nbs/{name}'
    colab = f'https://colab.research.google.com/github/{REPO}/blob/main/nbs/{name}'
    return f'::: notebook-links\n[Download this notebook]({download}) · [Open in Colab]({colab})\n:::'

def note(text, **more):
    cell = mk_cell(text, 'markdown')
    cell.update(directives_={}, **more)
    return cell

def joined(cells):
    "Neighbouring folds of imports, and of tests, as one"
    out = []
    for cell in cells:
        if out and cell.get('fold') and joins(out[-1], cell): out[-1]['source'] += '\n\n' + cell.source
        else: out.append(cell)
    for cell in out:
        if cell.get('fold'): fold(cell, cell.pop('fold'))
    return out

# ---- the list of all names

def modules():
    "(notebook, title, module, its public names in the order of the page) of every notebook that exports"
    out = []
    for path in sorted((ROOT/'nbs').glob('*.ipynb')):
        cells = read_nb(path).cells
        code = [c for c in cells if c.cell_type == 'code']
        module = next((m[1] for c in code if (m := re.search(r'^#\|\s*default_exp\s+(\w+)', c.source, re.M))), None)
        if not module: continue
        exported = [c for c in code if re.search(r'^#\|\s*export\s*$', c.source, re.M)]
        names = [n for c in exported for n in public(c) if find(module, n) is not None]
        out.append((path.name, re.match(r'#\s*(.*)', cells[0].source)[1], module, list(dict.fromkeys(names))))
    return out

def first_line(module, name):
    found = find(module, name)
    doc = (getattr(found, '__doc__', None) or '').strip()
    return doc.splitlines()[0] if doc else ''

def page_of(notebook): return re.sub(r'^\d+[a-z]*_', '', notebook.removesuffix('.ipynb').lower()) + '.html'

@lru_cache
def index_by_page():
    "A table for each page: the names, and what each is for in a line"
    parts = []
    for notebook, title, module, names in modules():
        rows = []
        for name in names:
            if not is_documented(find(module, name)): continue
            link = '[`{}`]({}#{})'.format(name, *places()[name])
            rows.append(f"| {link} | {first_line(module, name).replace('|', chr(92) + '|')} |")
        if rows: parts.append('\n'.join([f'## {title}', '', '| name | what it is for |', '|---|---|', *rows]))
    return '\n\n'.join(parts)
