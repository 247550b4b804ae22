"""The site's sources, read without Quarto: each check takes one notebook and lists what is wrong in it.
Every check is shown to find a planted fault, so that finding none means something."""
import os, re, sys
from collections import Counter
from pathlib import Path
import nbformat, pytest, yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pybtex.database import parse_file
from conftest import ROOT, make

NBS = ROOT/'nbs'
NOTEBOOKS = {p.name: nbformat.read(p, 4) for p in sorted(NBS.glob('*.ipynb'))}
BIB = set(parse_file(NBS/'references.bib').entries)

# The report's references, by its numbers; the tenth may be cited as it was submitted or as it was published
REPORT = {1: 'wang2018vasc', 2: 'lopez2018deep', 3: 'kobak2019art', 4: 'lin2017using', 5: 'butler2018integrating',
          6: 'thingsolver2018time', 7: 'shafkat2018intuitively', 8: 'crossvalidated2016reparameterization',
          9: 'higgins2017beta', 10: 'tonolini2019variational tonolini2020variational', 11: 'trevino2016introduction',
          12: 'kosiorek2018normalizing', 13: 'li2013sparse', 14: 'krishnan2018challenges'}

# ---- reading a notebook

OPTION = re.compile(r'#\|\s*([\w-]+):\s*(.*)')

def words(cell): return set(re.findall(r'^#\|\s*([\w-]+)\s*$', cell.source, re.M))  # nbdev's: export, hide, slow

def options(cell):
    "Quarto's options of a code cell: label, fig-cap, fig-alt; `ValueError` where one is not YAML"
    found = {}
    for name, value in map(re.Match.groups, map(OPTION.match, filter(OPTION.match, cell.source.splitlines()))):
        try: found |= yaml.safe_load(f'{name}: {value}')
        except yaml.YAMLError: raise ValueError(f'#| {name}: its value is not YAML; put it in quotes')
    return found

def body(cell): return [l for l in cell.source.splitlines() if l.strip() and not l.startswith('#|')]
def is_hidden(cell):
    found = options(cell)
    return 'hide' in words(cell) or found.get('include') is False or found.get('output') is False

def codes(nb): return [(i, c) for i, c in enumerate(nb.cells) if c.cell_type == 'code']
def exported(nb): return [(i, c) for i, c in codes(nb) if 'export' in words(c)]

def prose(nb):
    "(cell number, text) of everything that Quarto reads as markdown: cells, captions, and outputs that are markdown"
    for i, c in enumerate(nb.cells):
        if c.cell_type == 'markdown': yield i, c.source
        elif not is_hidden(c):
            yield from ((i, str(v)) for k, v in options(c).items() if k.endswith('-cap'))
            yield from ((i, o.data['text/markdown']) for o in c.outputs if 'text/markdown' in o.get('data', {}))

def no_blocks(text): return re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
def no_code(text): return re.sub(r'`[^`\n]+`', '`', no_blocks(text))
def no_math(text): return re.sub(r'(?<![\\$])\$[^$]+?(?<!\\)\$', '', re.sub(r'\$\$.*?\$\$', '', text, flags=re.S))

def has_picture(cell):
    data = [o.get('data', {}) for o in cell.outputs]
    return any(k.startswith('image/') or 'plotly' in k or (k == 'text/html' and re.search('plotly|<img', str(d[k])))
               for d in data for k in d)

CROSSREF = ('fig', 'tbl', 'eq', 'sec', 'lst')
def mentions(nb):
    "(cell number, key) of every @key"
    return [(i, k) for i, t in prose(nb) for k in re.findall(r'(?<![\w@.\\])@([A-Za-z][\w:-]*\w)', no_math(no_code(t)))]
def is_crossref(key): return key.split('-')[0] in CROSSREF and '-' in key

def targets(nb):
    "Every label that @fig-x and its like, or a link to #x, can point to"
    return ([options(c)['label'] for _, c in codes(nb) if 'label' in options(c)] +
            [k for _, t in prose(nb) for k in re.findall(r'\{#([\w:-]+)[^}]*\}', no_code(t))])

def anchors(nb):
    "Labels, and the names that headings get"
    heads = [h for _, t in prose(nb) for h in re.findall(r'^#{1,6}\s+(.*?)\s*(?:\{.*\})?$', no_blocks(t), re.M)]
    slug = lambda h: re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', h.lower())))
    return set(targets(nb)) | {slug(h) for h in heads}

# ---- the checks

def citations(nb):
    cited = [(i, k) for i, k in mentions(nb) if not is_crossref(k)]
    return [f'cell {i}: @{k} is not in references.bib' for i, k in cited if k not in BIB]

def cross_references(nb):
    n = Counter(targets(nb))
    referred = [(i, k) for i, k in mentions(nb) if is_crossref(k)]
    return ([f'{k} is defined {m} times' for k, m in n.items() if m > 1] +
            [f'cell {i}: @{k} is defined nowhere in this notebook' for i, k in referred if k not in n])

def figures(nb):
    bad = []
    for i, c in codes(nb):
        o, fig = options(c), str(options(c).get('label', '')).startswith('fig-')
        if is_hidden(c): continue
        if has_picture(c):
            bad += [f'cell {i}: its picture has no {k}' for k in ('fig-cap', 'fig-alt') if not o.get(k)]
            if not fig: bad.append(f'cell {i}: its picture has no label that starts with fig-')
        elif fig: bad.append(f'cell {i}: {o["label"]} has no picture stored')
    return bad + [f'cell {i}: {fault}' for i, t in prose(nb) for fault in images(no_code(t))]

def images(text):
    "Pictures in prose that have no alternative text"
    marked = re.findall(r'!\[([^\]]*)\]\(([^)\s]+)[^)]*\)(\{[^}]*\})?', text)  # ![alt](source){more}
    tags = re.findall(r'<img[^>]*>', text)
    bad = [f'image {src} has no alternative text' for alt, src, more in marked
           if not (alt.strip() or 'fig-alt=' in more)]
    return bad + ['an <img> has no alternative text' for tag in tags if not re.search(r'alt="[^"]+"', tag)]

def pages():
    "The notebook behind each page of the site, whose name nbdev makes"
    return {re.sub(r'^\d+[a-z]*_', '', Path(n).stem.lower()) + '.html': n for n in NOTEBOOKS}

def is_file_of_site(path):
    "A file beside the notebooks that is no page: a picture, a style, the bibliography"
    return not path.endswith(('.html', '.ipynb')) and not path.startswith(('/', '..')) and (NBS/path).is_file()

def links(nb):
    bad = []
    for i, t in prose(nb):
        for link in re.findall(r'\]\(([^)\s]+)[^)]*\)|(?:href|src)="([^"]+)"', no_math(no_code(t))):
            path, _, anchor = ''.join(link).partition('#')
            if re.match(r'[a-z]+:', path): continue
            page = nb if not path else NOTEBOOKS.get(pages().get(path, path))
            if page is None and is_file_of_site(path): continue
            if page is None: bad.append(f'cell {i}: the link to {path} leads nowhere on the site')
            elif anchor and anchor not in anchors(page):
                bad.append(f'cell {i}: no heading or label #{anchor} in {path or "this notebook"}')
    return bad

def title(nb):
    first = nb.cells[0]
    lines = '\n'.join(l for l in first.source.splitlines() if l.strip())
    good = first.cell_type == 'markdown' and re.match(r'# \S.*\n> \S', lines)
    return [] if good else ['cell 0: it should be "# Title", then "> one line on what it is for"']

def mixes(cell):
    "Imports and definitions in one cell"
    return (any(re.match(r'(import|from)\b', line) for line in body(cell)) and
            any(re.match(r'def|class|@', line) for line in body(cell)))

def has_error(cell): return any(o.output_type == 'error' for o in cell.outputs)

def cells(nb):
    "What nbdev does not check; tests/test_lines.py checks how long they are"
    bad = [f'cell {i}: imports and definitions stand in one exported cell' for i, c in exported(nb) if mixes(c)]
    bad += [f'cell {i}: it is never run (eval: false)' for i, c in codes(nb) if options(c).get('eval') is False]
    bad += [f'cell {i}: it is stored with an error' for i, c in codes(nb) if has_error(c)]
    last = codes(nb)[-1][1] if codes(nb) else None
    if exported(nb) and not ('hide' in words(last) and 'nbdev_export()' in last.source):
        bad.append('the last code cell should be hidden and call nbdev_export()')
    return bad

def formulas(nb):
    return [f'cell {i}, "{para.strip()[:40]}...": {fault}' for i, t in prose(nb)
            for para in re.split(r'\n\s*\n', no_code(t)) for fault in dollars(para.replace(r'\$', ''))]

def dollars(text):
    "What is wrong with the formulas of a paragraph"
    bad = []
    if text.count('$$') % 2 or text.replace('$$', '').count('$') % 2: bad.append('a $ has no partner')
    display = re.findall(r'\$\$(.*?)\$\$', text, re.S)
    inline = re.findall(r'\$([^$]+)\$', re.sub(r'\$\$.*?\$\$', '', text, flags=re.S))
    bad += [f'${m}$ starts or ends with a space' for m in inline if m != m.strip()]
    return bad + [fault for m in display + inline for fault in pairs(m)]

def pairs(formula):
    "What of a formula is opened and not closed, or closed and not opened"
    bad = []
    opened, closed = (Counter(re.findall(rf'\\{word}\{{(\w+\*?)\}}', formula)) for word in ('begin', 'end'))
    if opened != closed: bad.append('a \\begin or \\end has no partner')
    left, right = (len(re.findall(rf'\\{word}\b', formula)) for word in ('left', 'right'))
    if left != right: bad.append('a \\left or \\right has no partner')
    braces = re.sub(r'\\[{}]', '', formula)
    if braces.count('{') != braces.count('}'): bad.append('a brace has no partner')
    return bad

def blocks(nb):
    text = [(i, t) for i, t in prose(nb)]
    bad = [f'cell {i}: a ``` has no partner' for i, t in text if len(re.findall(r'^```', t, re.M)) % 2]
    opened = sum(len(re.findall(r'^:::+[ \t]*[{\w]', t, re.M)) for _, t in text)
    closed = sum(len(re.findall(r'^:::+[ \t]*$', t, re.M)) for _, t in text)
    return bad + ([] if opened == closed else [f'{opened} blocks are opened with ::: and {closed} are closed'])

def yaml_options(nb):
    bad = []
    for i, c in codes(nb):
        try: options(c)
        except ValueError as e: bad.append(f'cell {i}: {e}')
    return bad

CHECKS = [yaml_options, citations, cross_references, figures, links, title, cells, formulas, blocks]

# ---- the notebooks pass them

@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_notebook(name, check): assert check(NOTEBOOKS[name]) == []

def test_references_of_the_report_are_cited():
    cited = {k for nb in NOTEBOOKS.values() for _, k in mentions(nb)}
    assert [f'[{n}] {k}' for n, k in REPORT.items() if not cited & set(k.split())] == []

def test_references_of_the_report_are_in_the_bibliography():
    assert len(REPORT) == 14 and {k for o in REPORT.values() for k in o.split()} <= BIB

def test_every_reference_can_be_formatted():
    "pybtex reads them all, and writes them as a bibliography"
    from pybtex.plugin import find_plugin
    style, md = find_plugin('pybtex.style.formatting', 'unsrt')(), find_plugin('pybtex.backends', 'markdown')()
    done = [e.text.render(md) for e in style.format_bibliography(parse_file(NBS/'references.bib'))]
    assert len(done) == len(BIB) > 14 and all(len(o) > 20 for o in done)

# ---- the site's settings

def sidebar(quarto):
    "Its pages: single ones, and those of each section"
    entries = quarto['website']['sidebar']['contents']
    return [page for e in entries for page in ([e] if isinstance(e, str) else e['contents'])]

def site(quarto, names):
    side = sidebar(quarto)
    return ([f'{f} is not a notebook' for f in side if f not in names] +
            [f'{f} is not in the sidebar' for f in names if f not in side] +
            [f'{f} is in the sidebar twice' for f, n in Counter(side).items() if n > 1])

QUARTO = yaml.safe_load((ROOT/'_quarto.yml').read_text())

def test_sidebar(): assert site(QUARTO, list(NOTEBOOKS)) == []

def unlisted(names, text): return [f for f in names if f != 'index.ipynb' and f'({f})' not in text]

def test_table_of_the_index():
    text = '\n'.join(c.source for c in NOTEBOOKS['index.ipynb'].cells)
    assert unlisted(NOTEBOOKS, text) == [], 'add it to the table of nbs/index.ipynb'
    assert unlisted(['index.ipynb', '00_a.ipynb', '01_b.ipynb'], '[00 A](00_a.ipynb)') == ['01_b.ipynb']

def test_settings():
    "Files that the settings name exist; notebooks are not run to build the site; nbdev would name the same site"
    assert (NBS/QUARTO['bibliography']).is_file() and (NBS/QUARTO['format']['html']['css']).is_file()
    assert QUARTO['execute'] == {'enabled': False} and QUARTO['project']['output-dir'] == '_docs'
    assert all(o['href'] in NOTEBOOKS for o in QUARTO['website']['navbar']['left'])
    from configparser import ConfigParser
    ini = ConfigParser()
    ini.read(ROOT/'settings.ini')
    ini, web = ini['DEFAULT'], QUARTO['website']
    assert web['site-url'] == ini['doc_host'] + ini['doc_baseurl'] and web['repo-url'] == ini['git_url']
    assert (web['title'], web['description'], web['repo-branch']) == (ini['title'], ini['description'], ini['branch'])

# ---- the pages that Quarto gets

def test_pages(project):
    "`make docs` with a stand-in for Quarto: exported code is shown, hidden code is not, no directive of nbdev is left"
    (project/'.venv').mkdir()
    (project/'.venv/.installed').touch()
    quarto = project/'bin/quarto'
    quarto.parent.mkdir()
    copies = '*.ipynb _quarto.yml references.bib styles.css images'
    quarto.write_text(f'#!/bin/sh\nmkdir -p _docs && cp -r {copies} _docs\n')
    quarto.chmod(0o755)
    path = os.pathsep.join([str(quarto.parent), os.environ['PATH']])
    r = make('docs', f'BIN={Path(sys.executable).parent}', cwd=project, PATH=path)
    assert r.returncode == 0, r.stdout + r.stderr
    assert r.stdout.splitlines()[-1] == 'The site is in _docs: open _docs/index.html', r.stdout + r.stderr
    for name, nb in NOTEBOOKS.items():
        page = nbformat.read(project/'_docs'/name, 4)
        text = [c.source for _, c in codes(page)]
        assert [o for o in text if re.search(r'^#\|\s*[\w-]+(\s+\w+)?\s*$', o, re.M)] == [], name
        shown = '\n'.join('\n'.join(body(o)) for _, o in codes(page))
        assert [c.source for _, c in exported(nb) if '\n'.join(body(c)) not in shown] == [], name
        assert [o for o in text if 'nbdev_export()' in o] == [], name
    assert (project/'_docs/_quarto.yml').read_text() == (ROOT/'_quarto.yml').read_text()
    assert (project/'_docs/images/tsne.png').read_bytes() == (NBS/'images/tsne.png').read_bytes()

# ---- every check can fail

PNG = new_output('display_data', data={'image/png': 'iVBORw0KGgo='})
TURNS = new_output('display_data', data={'text/html': '<div class="plotly-graph-div"></div>'})
ERROR = new_output('error', ename='E', evalue='', traceback=[])
CITES = new_output('display_data', data={'text/markdown': 'By [@nobody2020]'})
def fig(*lines, out=PNG): return new_code_cell('\n'.join([*lines, 'plot()']), outputs=[out])

LABEL, CAP, ALT = '#| label: fig-a', '#| fig-cap: "A picture"', '#| fig-alt: "Dots"'
GOOD = ['# A title\n\n> What it is for',
        'See @fig-a, @eq-a and [@tonolini2019variational; @kingma2014auto], or @sec-a. '
        'Mail a@b.org costs \\$5, `$x` and `@patch`.',
        '## A part {#sec-a}\n\n### The `load` of $\\beta$-VAE\n\n'
        '$$\\left\\{\\begin{aligned}x\\end{aligned}\\right\\}$$ {#eq-a}\n\nwhere $q(z|x)$ and $[z](x)$.',
        '[above](#sec-a) [that](#a-title) [more](#the-load-of-beta-vae) [index](index.ipynb#two-commands) '
        '[web](https://x.org/#y) [![alt](styles.css)](references.bib)',
        '```python\na = "$"  # [x](nowhere) @nobody\n```\n\n::: {.callout-note}\nNote\n:::',
        new_code_cell('#| export\nimport os\nfrom re import sub'), fig(LABEL, CAP, ALT), fig('#| hide'),
        new_code_cell('#| export\n' + '\n'.join(f'x{i} = 1' for i in range(40))),
        new_code_cell('#| hide\nimport nbdev; nbdev.nbdev_export()')]

def notebook(*cs): return new_notebook(cells=[new_markdown_cell(c) if isinstance(c, str) else c for c in cs])

@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_a_good_notebook(check): assert check(notebook(*GOOD)) == []

@pytest.mark.parametrize('check, cell, message', [
    (yaml_options, fig(LABEL, '#| fig-cap: a: b', ALT), 'fig-cap: its value is not YAML'),
    (citations, 'as @nobody2020 says', '@nobody2020 is not in references.bib'),
    (citations, 'so it is [see @kingma2014auto; @nobody2020, p. 3]', '@nobody2020 is not in references.bib'),
    (citations, fig('#| label: fig-b', '#| fig-cap: "From @nobody2020"', ALT), '@nobody2020 is not in references.bib'),
    (citations, new_code_cell('x', outputs=[CITES]), '@nobody2020'),
    (cross_references, 'see @fig-b', '@fig-b is defined nowhere'),
    (cross_references, 'see [-@tbl-b]', '@tbl-b is defined nowhere'),
    (cross_references, 'see @eq-b', '@eq-b is defined nowhere'),
    (cross_references, '## Again {#sec-a}', 'sec-a is defined 2 times'),
    (cross_references, fig(LABEL, CAP, ALT), 'fig-a is defined 2 times'),
    (figures, fig('#| label: fig-b', ALT), 'no fig-cap'),
    (figures, fig('#| label: fig-b', CAP), 'no fig-alt'),
    (figures, fig('#| label: fig-b', CAP, '#| fig-alt: ""'), 'no fig-alt'),
    (figures, fig(CAP, ALT), 'no label'),
    (figures, fig('#| label: picture', CAP, ALT), 'no label that starts with fig-'),
    (figures, fig('#| label: fig-b', CAP, out=TURNS), 'no fig-alt'),
    (figures, fig(CAP, ALT, out=TURNS), 'no label'),
    (figures, new_code_cell('\n'.join(['#| label: fig-b', CAP, ALT, 'plot()'])), 'fig-b has no picture stored'),
    (figures, '![](styles.css)', 'image styles.css has no alternative text'),
    (figures, '<img src="styles.css">', 'an <img> has no alternative text'),
    (links, '[there](nowhere.ipynb)', 'nowhere.ipynb leads nowhere'),
    (links, '[there](03_data.html)', '03_data.html leads nowhere'),
    (links, '[there](../setup.py)', '../setup.py leads nowhere'),
    (links, '[there](nowhere.png "a title")', 'nowhere.png leads nowhere'),
    (links, '<a href="nowhere.html">there</a>', 'nowhere.html leads nowhere'),
    (links, '[there](#nowhere)', 'no heading or label #nowhere in this notebook'),
    (links, '[there](index.ipynb#nowhere)', 'no heading or label #nowhere in index.ipynb'),
    (cells, new_code_cell('#| export\nimport os\ndef f(): pass'), 'imports and definitions'),
    (cells, new_code_cell('#| eval: false\nx'), 'never run'),
    (cells, new_code_cell('x', outputs=[ERROR]), 'stored with an error'),
    (cells, new_code_cell('x'), 'the last code cell'),
    (cells, new_code_cell('import nbdev; nbdev.nbdev_export()'), 'the last code cell'),
    (formulas, 'it is $x here', 'a $ has no partner'),
    (formulas, '$$x', 'a $ has no partner'),
    (formulas, 'it is $ x$ here', 'starts or ends with a space'),
    (formulas, '$$\\begin{aligned}x$$', 'a \\begin or \\end has no partner'),
    (formulas, '$\\left(x$', 'a \\left or \\right has no partner'),
    (formulas, '$\\frac{1}{2$', 'a brace has no partner'),
    (blocks, '```python\nx', 'a ``` has no partner'),
    (blocks, '::: {.callout-note}\nNote', '2 blocks are opened with ::: and 1 are closed'),
], ids=lambda o: o if isinstance(o, str) and '\n' not in o else getattr(o, '__name__', ''))
def test_finds(check, cell, message):
    "The good notebook with one more cell, its last or last but one: one thing is wrong, and is said"
    cells = [*GOOD, cell] if 'last code cell' in message else [*GOOD[:-1], cell, GOOD[-1]]
    found = check(notebook(*cells))
    assert len(found) == 1 and message in found[0]

@pytest.mark.parametrize('first', [
    'A title\n\n> line', '# A title', '# A title\n\nline', '> line\n\n# A title', new_code_cell('# A title\n> line')])
def test_finds_title(first): assert len(title(notebook(first, *GOOD[1:]))) == 1

def test_finds_sidebar():
    quarto = {'website': {'sidebar': {'contents': [{'contents': ['a.ipynb', 'b.ipynb', 'b.ipynb']}]}}}
    assert site(quarto, ['b.ipynb', 'c.ipynb']) == [
        'a.ipynb is not a notebook', 'c.ipynb is not in the sidebar', 'b.ipynb is in the sidebar twice']
