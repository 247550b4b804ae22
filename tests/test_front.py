"""The front page says what the report's page says, and what the code does."""
import ast, importlib, inspect, re, shutil, sys
import nbformat, pytest, yaml
from conftest import ROOT

sys.path.insert(0, str(ROOT/'tools'))
import front

NBS = ROOT/'nbs'
REPORT = nbformat.read(NBS/'24_report.ipynb', 4)
INDEX = nbformat.read(NBS/'index.ipynb', 4)
TEXT = '\n\n'.join(c.source for c in INDEX.cells)

def section(heading):
    "The part of the front page under a heading"
    return re.search(rf'^## {heading}$(.*?)(?=^## |\Z)', TEXT, re.M | re.S)[1]

# ---- what came out

def test_picture_is_the_reports(): assert (NBS/'images/tsne.png').read_bytes() == front.picture(REPORT)

def test_numbers_are_the_reports(): assert front.came_out(REPORT) in [c.source for c in INDEX.cells]

def test_size_of_the_data():
    "What is said of PBMC3k elsewhere on the front page"
    measured, _ = front.claims(REPORT)[1]
    cells, genes = re.search(r'([\d,]+) x ([\d,]+) left', measured).groups()
    assert f'*{cells} blood cells (PBMC3k)' in TEXT and f'{cells} cells, {genes} genes' in TEXT

@pytest.fixture
def copied(tmp_path):
    "Both pages, to change at will"
    for name in ('24_report.ipynb', 'index.ipynb'): shutil.copy(NBS/name, tmp_path)
    (tmp_path/'images').mkdir()
    shutil.copy(NBS/'images/tsne.png', tmp_path/'images')
    return tmp_path

def plant(folder, old, new):
    page = folder/'24_report.ipynb'
    assert old in page.read_text()
    page.write_text(page.read_text().replace(old, new))

def test_nothing_to_do(copied):
    before = {p: p.stat().st_mtime_ns for p in copied.rglob('*')}
    front.update(copied)
    assert {p: p.stat().st_mtime_ns for p in copied.rglob('*')} == before

def test_another_run(copied):
    "The report was run anew: its numbers and its picture come along"
    plant(copied, 'median NMI is that of **', 'median NMI is that of **another ')
    plant(copied, front.output(REPORT, 'fig-tsne', 'image/png').strip(), 'bmV3')
    front.update(copied)
    assert 'and there another ' in (copied/'index.ipynb').read_text()
    assert (copied/'images/tsne.png').read_bytes() == b'new'

@pytest.mark.parametrize('old, new, message', [
    ('label: fig-tsne', 'label: fig-other', 'no image/png is stored at fig-tsne'),
    ('median NMI is that of', 'median NMI has', 'nothing like "median NMI'),
    ('9. Six latent features', '19. Six latent features', 'claim 9 .* does not hold'),
])
def test_what_the_page_no_longer_says(copied, old, new, message):
    plant(copied, old, new)
    with pytest.raises(SystemExit, match=message): front.update(copied)

# ---- the table of notebooks

def test_table_lists_every_notebook():
    "In the order and the parts of the sidebar, by the number and, but for Greek, the title that it has"
    sidebar = yaml.safe_load((ROOT/'_quarto.yml').read_text())['website']['sidebar']['contents']
    expected = [(part['section'], name) for part in sidebar[1:] for name in part['contents']]
    rows, part = [], None
    for bold, number, name in re.findall(r'^\| (?:\*\*(.*?)\*\* )?\| \[(\d\d) .*?\]\((.*?)\)', TEXT, re.M):
        part = bold or part
        rows.append((part, name))
        assert name.startswith(f'{number}_')
    assert rows == expected

# ---- where things are

def test_defaults_are_those_of_the_code():
    "`f(name=value)`: that is the default of f, in the module of the notebook that is linked next"
    pairs = re.findall(r'`(\w+\([^`]+=[^`]+\))`.*?\]\(\d+_(\w+)\.ipynb', section('Where things are'))
    assert len(pairs) == 5
    for code, module in pairs:
        call = ast.parse(code, mode='eval').body
        f = getattr(importlib.import_module(f'scvae_nb.{module}'), call.func.id)
        parameters = inspect.signature(f).parameters
        for k in call.keywords: assert parameters[k.arg].default == ast.literal_eval(k.value), code

def test_five_lines():
    "They run; here for two epochs"
    code = re.search(r'```python\n(.*?)```', section('Five lines of Python'), re.S)[1]
    assert len(code.splitlines()) == 5 and 'random_state=0' in code
    names = {}
    exec(code.replace('random_state=0', 'random_state=0, max_epochs=2, progress=False'), names)
    assert names['adata'].obsm['X_vsc'].shape == (700, 6)
