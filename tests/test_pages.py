"""The site as a reader gets it, built by pandoc with the site's own style sheet (tools/preview.py): every link lands,
every public name has its place, formulas convert, and in Chromium no page is wider than the screen. What needs
Chromium, or axe-core from npm, is skipped where that is absent."""
import gzip, logging, os, re, shutil, subprocess, sys
from html.parser import HTMLParser
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT/'tools'))
import browser, llms, pages, preview

NOTEBOOKS = sorted(p.name for p in (ROOT/'nbs').glob('*.ipynb'))
PAGES = [pages.page_of(n) for n in NOTEBOOKS]
MODEL_PAGES = 'ae.html', 'vae.html', 'vsc.html', 'linear.html', 'flows.html', 'scvi.html', 'actinn.html'
needs_browser = pytest.mark.skipif(browser.browser() is None, reason='Chromium is not installed here')

class Read(HTMLParser):
    "The ids, links and sources of a page"
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.sources = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if 'id' in a: self.ids.append(a['id'])
        if tag == 'a' and 'href' in a: self.links.append(a['href'])
        if 'src' in a: self.sources.append(a['src'])
        if tag == 'link' and a.get('rel') == 'stylesheet': self.sources.append(a['href'])

class Site:
    def __init__(self, folder):
        self.folder = folder
        self.warnings = []
        preview.build(folder)
        self.pages = {p: Read((folder/p).read_text(encoding='utf-8')) for p in PAGES}
        self.measured = {}

    def measure(self, page):
        if page not in self.measured: self.measured[page] = browser.measure(self.folder, page)
        return self.measured[page]

    def plots(self, page): return (self.folder/page).read_text(encoding='utf-8').count('class="plot-3d"')

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    messages = Messages()
    logging.getLogger('pypandoc').addHandler(messages)
    built = Site(tmp_path_factory.mktemp('site'))
    logging.getLogger('pypandoc').removeHandler(messages)
    built.warnings = messages.texts
    return built

class Messages(logging.Handler):
    "What pandoc warns of"
    def __init__(self):
        super().__init__()
        self.texts = []
    def emit(self, record): self.texts.append(record.getMessage())

# ---- links, names, formulas

def lost(site, page):
    "Links of a page that lead nowhere on the site"
    bad = []
    for link in site.pages[page].links:
        if re.match(r'[a-z]+:', link): continue
        path, _, anchor = link.partition('#')
        target = path or page
        is_page = target in site.pages
        if not is_page and not (site.folder/target).is_file(): bad.append(link)
        elif is_page and anchor and anchor not in site.pages[target].ids: bad.append(link)
    return bad

@pytest.mark.parametrize('page', PAGES)
def test_links(site, page): assert lost(site, page) == []

def test_finds_a_lost_link(site):
    read = site.pages['vae.html']
    read.links += ['nowhere.html', 'vsc.html#nowhere', '#nowhere', 'vsc.html#betavsc']
    found = lost(site, 'vae.html')
    del read.links[-4:]
    assert found == ['nowhere.html', 'vsc.html#nowhere', '#nowhere']

def documented():
    "(page, name) of every exported name that can be called or asked"
    return [(pages.page_of(notebook), name) for notebook, _, module, names in pages.modules() for name in names
            if pages.is_documented(pages.find(module, name))]

def test_every_public_name_has_its_place(site):
    "An anchor of its own, once, on its own page; and a line in the reference that leads to it"
    links = site.pages['reference.html'].links
    wrong = [name for page, name in documented() if site.pages[page].ids.count(pages.places()[name][1]) != 1]
    unlisted = [name for _, name in documented() if '#'.join(pages.places()[name]) not in links]
    assert (wrong, unlisted) == ([], []) and len(documented()) > 250

def test_all_names_are_listed(site):
    "What `from scvae_nb.all import *` gives, and what modules export, stands in the reference"
    listed = {name for _, name in documented()}
    for notebook, _, module, _ in pages.modules():
        exported = pages.find(module, '__all__')
        missing = [n for n in exported if pages.is_documented(pages.find(module, n)) and n not in listed]
        assert missing == [], notebook

def test_formulas(site):
    "Pandoc turns every formula into MathML"
    assert [t for t in site.warnings if 'TeX math' in t] == []

def test_nothing_from_elsewhere(site):
    "No page asks another server for a script, a style, a font or a picture"
    outside = {p: [s for s in r.sources if re.match(r'(https?:)?//', s)] for p, r in site.pages.items()}
    assert {p: s for p, s in outside.items() if s} == {}
    assert not re.search(r'@import|https?://', (ROOT/'nbs/styles.css').read_text(encoding='utf-8'))

def test_weight(site):
    """The report as it is loaded, with its style, its pictures and what draws its 3-D figures: under 2.5 MB. Text is
    counted as a server sends it, compressed; plots.js asks for plotly.min.js, so that is no source of the page."""
    files = {'report.html', 'plotly.min.js', *site.pages['report.html'].sources}
    weight = sum(len(gzip.compress((site.folder/f).read_bytes())) for f in files)
    assert weight < 2.5e6, f'{weight/1e6:.2f} MB'
    as_stored = sum((site.folder/f).stat().st_size for f in {'report.html', *site.pages['report.html'].sources})
    assert as_stored < 2.5e6, f'{as_stored/1e6:.2f} MB'

def test_llms_in_step():
    assert (ROOT/'nbs/llms.txt').read_text(encoding='utf-8') == llms.text(), 'run python tools/llms.py'

# ---- what the processor does to cells

def cell(source, *outputs, **directives):
    made = pages.note(source)
    made.update(cell_type='code', outputs=list(outputs), directives_={k: [] for k in directives})
    return made

@pytest.mark.parametrize('source, outputs, directives, fold', [
    ('import os\nfrom re import sub', [], {}, 'Imports'),
    ('def f(): return 1', [], dict(export=1), 'Source of f'),
    ('x = f()\nassert x == 1', [], {}, 'Tests'),
    ('with expect_raises(ValueError): f()', [], {}, 'Tests'),
    ('np.testing.assert_allclose(f(), 1)', [], {}, 'Tests'),
    ('x = f()\nx', [{}], {}, None),
    ('x = f()\nassert x == 1\nx', [{}], {}, None),
    ('\n'.join(['x = 1']*20), [], {}, 'How this is computed'),
    ('plot()', [{'data': {'image/png': 'x'}}], {}, 'How this figure is drawn'),
])
def test_folds(source, outputs, directives, fold):
    made = cell(source, *outputs, **directives)
    assert pages.fold_name(made, pages.public(made)) == fold

@pytest.mark.parametrize('source, output, fold', [
    ('#| label: tbl-x\ntable', {'data': {'text/html': '<table></table>'}}, 'How this table is made'),
    ('say("x")', {'data': {'text/markdown': 'x'}}, 'How this is computed'),
    ('cube', {'data': {'text/html': '<div class="plotly-graph-div"></div>'}}, 'How this figure is drawn'),
    ('#| output: false\nassert x', {'text': 'x'}, 'Tests'),
])
def test_folds_by_what_is_shown(source, output, fold):
    assert pages.fold_name(cell(source, output), []) == fold

def test_gathered():
    "On a page that is read: names, code and tests in one fold between two texts; what shows something stays outside"
    about = pages.note('about f', names_=['f'])
    made = [pages.note('A text'), about, cell('def f(): pass', export=1), cell('assert f'), cell('f()', {'text': '1'}),
            cell('assert g'), pages.note('Another')]
    sources = [c.source for c in pages.gathered(made)]
    assert sources == ['A text', pages.opening('Code: f'), 'about f', 'def f(): pass', 'assert f',
                       '```{=html}\n</details>\n```', 'f()', 'assert g', 'Another']

CLAIM = '**Claim {}: It is so.** Measured: x.\n\nHere: one: two. Verdict: **{}**.'
@pytest.mark.parametrize('verdict, shown', [
    ('holds', '[holds]{.verdict .holds}'), ('does not hold', '[does not hold]{.verdict .fails}'),
    ('does not hold; but x', '[does not hold]{.verdict .qualified} but x'),
    ('5 seeds cannot tell: x, y', '[5 seeds cannot tell]{.verdict .qualified} x, y'),
])
def test_claims(verdict, shown):
    "A verdict stands out, in a sentence and in the table"
    text = pages.claim(CLAIM.format(1, verdict))
    rule, here = 'Measured: x.', '**Here:** one: two.'
    assert text == f'::: claim\n**Claim 1: It is so.**\n\n{rule}\n\n{here}\n\n{shown}\n:::'
    row = f'<table class="table claims"><tr><td>1. It</td><td>two</td><td>{verdict}</td></tr></table>'
    table = pages.claims_table(row)
    assert table.count('class="verdict') == 1 and '<td>two</td>' in table
    assert pages.claims_table(row.replace(' claims', '')) == row.replace(' claims', '') and pages.claim('x') == 'x'

def test_claims_of_the_report(site):
    "Twelve in frames, twelve in the table, in the colours that the conclusion counts"
    text = (site.folder/'report.html').read_text(encoding='utf-8')
    assert text.count('<div class="claim">') == 12 and text.count('class="verdict ') == 24
    stands, fails, rest = (text.count(f'class="verdict {kind}"')//2 for kind in ('holds', 'fails', 'qualified'))
    said = r'Of the twelve claims, (\d+) holds? [^,]*, (\d+) do(?:es)? not, and\s+(\d+) need'
    assert [stands, fails, rest] == [int(n) for n in re.findall(said, text)[-1]]   # the others are in code

def test_noise_is_not_shown():
    "No progress bar, no warning of a library; of a warning of ours, not the place"
    bar = {'data': {pages.WIDGET: {}, 'text/plain': '0%'}}
    other = {'name': 'stderr', 'text': '/x/y.py:3: UserWarning: no\n  code\n'}
    ours = {'name': 'stderr', 'text': '/x/y.py:3: DataWarning: look here\n  code\n'}
    made = cell('x', bar, other, ours)
    pages.lighten(made)
    assert made['outputs'] == [{'name': 'stderr', 'text': 'DataWarning: look here'}]

def test_neighbours_are_one_fold():
    "Two folds of tests that show nothing; not a fold of tests beside one of imports"
    made = [cell('assert x'), cell('assert y'), cell('import os')]
    for c, fold in zip(made, ['Tests', 'Tests', 'Imports']): c['fold'] = fold
    assert [c.source for c in pages.joined(made)] == [
        '#| code-fold: true\n#| code-summary: "Tests"\nassert x\n\nassert y',
        '#| code-fold: true\n#| code-summary: "Imports"\nimport os']

def test_public_names():
    made = cell('@patch\ndef take(self: CSRBatch): pass\n@patch\ndef _cut(self: CSRBatch): pass\nclass A: pass\nN = 1')
    assert pages.public(made) == ['CSRBatch.take', 'A', 'N']

# ---- in the browser

@needs_browser
@pytest.mark.parametrize('page', PAGES)
def test_fits_every_width(site, page):
    "At 390, 1,100 and 1,400 pixels nothing sticks out, all figures are there, 3-D figures draw, folds are closed"
    for m in site.measure(page):
        assert (m['page'] <= m['width'], m['wide']) == (True, []), m['width']
        assert m['broken'] == [] and m['outside'] == []
        assert m['unfolded'] == 0 and m['drawn'] == m['plots'] == site.plots(page)

@needs_browser
@pytest.mark.parametrize('page', MODEL_PAGES)
def test_text_first(site, page):
    "Open code takes less than 30 % of a model page's height"
    assert [m['code'] < .3 for m in site.measure(page)] == [True]*3

@needs_browser
def test_finds_what_sticks_out(tmp_path):
    "A wide box is found, and one that scrolls by itself is not"
    wide = '<div style="width:500px;height:9px">wide</div>'
    (tmp_path/'a.html').write_text(f'<!doctype html><body style="margin:0">{wide}<img src="no.png"></body>')
    (tmp_path/'b.html').write_text(f'<!doctype html><body><div style="overflow-x:auto">{wide}</div></body>')
    first, second = (browser.measure(tmp_path, p, widths=[390])[0] for p in ('a.html', 'b.html'))
    assert first['wide'] == ['DIV. wide'] and first['page'] == 500 and len(first['broken']) == 1
    assert second['wide'] == [] and second['page'] == 390

@pytest.fixture(scope='session')
def axe(tmp_path_factory):
    "axe-core, from SCVAE_NB_AXE or npm"
    if os.environ.get('SCVAE_NB_AXE'): return os.environ['SCVAE_NB_AXE']
    if not shutil.which('npm'): pytest.skip('npm is not installed here')
    folder = tmp_path_factory.mktemp('axe')
    command = ['npm', 'install', '--silent', '--no-audit', '--no-fund', 'axe-core@4.11.0']
    try: done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired: pytest.skip('npm did not answer within a minute')
    if done.returncode: pytest.skip('npm could not get axe-core')
    return str(folder/'node_modules/axe-core/axe.min.js')

@needs_browser
@pytest.mark.parametrize('page', ['index.html', 'report.html', 'vsc.html', 'reference.html'])
def test_accessible(site, axe, page):
    "axe-core finds nothing serious"
    found = browser.accessibility(site.folder, page, axe)
    assert [f for f in found if f['impact'] in ('serious', 'critical')] == []
