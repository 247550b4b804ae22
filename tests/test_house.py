"""The order of the house, read from the notebooks without running them: who imports whom, who inherits from whom, and
that nobody reaches into another's underscores. Each check is shown to find a planted fault."""
import ast, re
from dataclasses import dataclass, field
from functools import cached_property
import nbformat, pytest
from matplotlib.colors import is_color_like, to_rgb
from conftest import ROOT
from scvae_nb.look import GREY, INK

PICTURES, TRAINING = {'look', 'evaluate'}, {'train'}

# Where the registry of models is not there yet: the estimators, by name
ESTIMATORS = {'DeepAE', 'BetaVAE', 'BetaVSC', 'ProbabilisticPCA', 'FactorAnalysisEM', 'LinearVAE', 'FlowVAE', 'SCVI',
              'ACTINN'}

def models():
    "The classes that are models"
    try: from scvae_nb.estimator import MODELS
    except ImportError: return ESTIMATORS
    return {spec.name for spec in MODELS.values()}

# ---- reading

def is_exported(source): return re.search(r'^#\|\s*export[is]?\b', source, re.M) is not None

def parse(source):
    "The tree of a cell, without magics"
    return ast.parse(re.sub(r'^[%!].*$', '', source, flags=re.M))

@dataclass
class Page:
    "A notebook, or a file of tests or benchmarks, as code"
    name: str
    cells: list = field(default_factory=list)       # source of each

    @cached_property
    def module(self):
        "The module that it exports, if any"
        match = re.search(r'^#\|\s*default_exp\s+(\w+)', '\n'.join(self.cells), re.M)
        return match and match[1]

    @cached_property
    def number(self): return self.name.split('_')[0]

    @cached_property
    def all_code(self): return [node for source in self.cells for node in ast.walk(parse(source))]

    @cached_property
    def exported(self):
        return [node for source in self.cells if is_exported(source) for node in ast.walk(parse(source))]

    @cached_property
    def classes(self): return [node for node in self.exported if isinstance(node, ast.ClassDef)]

    @cached_property
    def private(self):
        "Underscore names that it defines: functions, classes, variables, attributes"
        names = {n.name for n in self.all_code if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        names |= {n.id for n in self.all_code if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        names |= {n.attr for n in self.all_code if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
        return {name for name in names if is_private(name)}

def is_private(name):
    "An underscore name of ours. Names such as `_repr_html_` belong to a protocol"
    return name == 'net_' or re.fullmatch(r'_(?!_)\w*[^_\W]', name) is not None

def page_of(path):
    if path.suffix == '.py': return Page(path.name, [path.read_text()])
    return Page(path.name, [c.source for c in nbformat.read(path, 4).cells if c.cell_type == 'code'])

def imports(nodes):
    "(module of the project, name taken from it or None) of every import, those within functions too"
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or '').split('.')
            inside = node.level > 0 or parts[0] == 'scvae_nb'
            module = parts[-1] if node.level > 0 else '.'.join(parts[1:])
            for alias in node.names:
                if inside and module: yield module, alias.name
                elif inside: yield alias.name, None                          # from scvae_nb import data
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith('scvae_nb.'): yield alias.name.split('.', 1)[1], None

class House:
    "All pages: those that make modules, and those that only use them"
    def __init__(self, pages, models):
        self.pages, self.models = pages, models
        self.modules = {p.module: p for p in pages if p.module}
        self.classes = {c.name: (c, p) for p in self.modules.values() for c in p.classes}
        self.model_modules = {self.classes[m][1].module for m in models if m in self.classes}

    def imported(self, module):
        "Modules that a module imports itself"
        return {m for m, _ in imports(self.modules[module].exported)}

    def reached(self, module):
        "Modules that come along when a module is imported"
        found, todo = set(), [module]
        while todo:
            new = {m for m in self.imported(todo.pop()) if m in self.modules} - found
            found |= new
            todo += new
        return found

    def bases(self, name):
        "Classes of the project that a class inherits from, at any distance"
        if name not in self.classes: return set()
        direct = {ast.unparse(b).split('[')[0].split('.')[-1] for b in self.classes[name][0].bases}
        return direct | {b for d in direct - {name} for b in self.bases(d)}

# ---- the checks: each lists what is wrong in the house

def imports_go_down(house):
    "A module imports lower numbers only"
    bad = []
    for name, page in house.modules.items():
        for other in sorted(house.imported(name)):
            home = house.modules.get(other)
            if home is None: bad.append(f'{page.name} imports {other}, which no notebook makes')
            elif home.number >= page.number: bad.append(f'{page.name} imports {home.name}')
    return bad

def no_circles(house):
    circular = [(name, page) for name, page in house.modules.items() if name in house.reached(name)]
    return [f'{page.name}: {name} imports itself, by way of others' for name, page in circular]

def training_knows_no_model(house): return knows_model(house, TRAINING)
def pictures_know_no_model(house): return knows_model(house, PICTURES)

def knows_model(house, names):
    pairs = [(n, m) for n in names & house.modules.keys() for m in house.reached(n) & house.model_modules]
    return [f'{house.modules[n].name} imports {m}, which holds a model' for n, m in sorted(pairs)]

def models_stand_alone(house):
    "No class of one model inherits from another's: neither an estimator, nor a network or other part in its module"
    bad = []
    for name, (_, page) in house.classes.items():
        for base in sorted(house.bases(name) & house.classes.keys() - COMMON):
            home = house.classes[base][1]
            are_models = {name, base} <= house.models
            are_parts = home.module != page.module and {home.module, page.module} <= house.model_modules
            if are_models or are_parts: bad.append(f'{page.name}: {name} inherits from {base}')
    return bad

COMMON = {'LatentModel'}                     # a base of all estimators, and no model itself, wherever it is kept

CALLS = {'getattr', 'setattr', 'hasattr', 'delattr', 'object', 'attrgetter'}     # `object`: mock.patch.object

def underscores_stay_home(house):
    """`net_` and underscore names are touched by the module that defines them, and by nobody else.
    Within a notebook that defines an estimator any `net_` passes: a name does not say whose it is."""
    owned = {name for page in house.modules.values() for name in page.private} | {'net_'}
    return [f'{page.name}: {use}' for page in house.pages for use in reaches(page, owned, house)]

def reaches(page, owned, house):
    "Where a page touches an underscore name that it does not define"
    estimators = {'LatentModel', *house.models}
    has_estimator = any(estimators & {c.name, *house.bases(c.name)} for c in page.classes)
    foreign = owned - page.private - ({'net_'} if has_estimator else set())
    for node in page.all_code:
        if isinstance(node, ast.Attribute) and node.attr in foreign and not is_own(node.value): yield ast.unparse(node)
        elif isinstance(node, ast.Call) and called(node) in CALLS:
            names = {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
            if names & foreign: yield ast.unparse(node)
    for module, name in imports(page.all_code):
        if name and is_private(name) and module != page.module: yield f'from {module} import {name}'

def is_own(value):
    "`self`, `cls` or `super()`: an heir may use what its base hands down"
    if isinstance(value, ast.Call): value = value.func
    return isinstance(value, ast.Name) and value.id in ('self', 'cls', 'super')

def called(call): return getattr(call.func, 'attr', getattr(call.func, 'id', None))

GREYS = {GREY, INK}
LETTERS = 'bgrcmy'                                                            # blue to yellow, in one letter
FORMAT = re.compile(rf'(C\d|[{LETTERS}])[-.:o*+sDxv^|]*')                       # as in plot(x, y, 'r--')
PLOTS = {'plot', 'semilogx', 'semilogy', 'loglog', 'errorbar'}
KEYWORDS = {'c', 'color', 'colors', 'colour', 'fc', 'ec', 'mfc', 'mec', 'facecolor', 'edgecolor', 'edgecolors',
            'facecolors', 'markerfacecolor', 'markeredgecolor', 'ecolor', 'textcolor'}

def colours_come_from_look(house):
    "No notebook but Look types a colour with a hue, or one of Look's greys; other greys, black and white are free"
    pages = [p for p in house.pages if p.module != 'look' and not p.name.endswith('.py')]
    return [f'{page.name} types {colour!r}' for page in pages for colour in typed_colours(page.all_code)]

def typed_colours(nodes):
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and is_typed(node.value): yield node.value
        if not isinstance(node, ast.Call): continue
        yield from (k.value.value for k in node.keywords if k.arg in KEYWORDS and is_letter(k.value))
        if called(node) in PLOTS: yield from (a.value for a in node.args if is_format(a))

def is_typed(text):
    "A hex with a hue or one of Look's greys, `C0`, a name such as `tab:red` or `orange`, `rgb(...)`"
    if re.fullmatch(r'C\d|rgba?\(.*\)', text): return True
    is_name = len(text) > 1 and not re.fullmatch(r'[\d.]+|none', text) and is_color_like(text)
    return is_name and (text.upper() in GREYS or len(set(to_rgb(text))) > 1)

def is_letter(node): return isinstance(node, ast.Constant) and node.value in tuple(LETTERS)
def is_format(node): return isinstance(node, ast.Constant) and FORMAT.fullmatch(str(node.value)) is not None

CHECKS = [imports_go_down, no_circles, training_knows_no_model, pictures_know_no_model, models_stand_alone,
          underscores_stay_home, colours_come_from_look]

# ---- the house passes them

PATHS = [p for folder in ('nbs/*.ipynb', 'tests/*.py', 'bench/*.py') for p in sorted(ROOT.glob(folder))]
PAGES = [page_of(p) for p in PATHS]
HOUSE = House(PAGES, models())

@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_house(check): assert check(HOUSE) == []

def left_out(house, source):
    "Modules that `all.py` does not import; the command line is no part of it"
    return sorted(house.modules.keys() - {module for module, _ in imports(ast.walk(ast.parse(source)))} - {'cli'})

def test_all():
    assert left_out(HOUSE, (ROOT/'scvae_nb/all.py').read_text()) == [], 'add it to scvae_nb/all.py'

def test_models_are_found():
    "Each model of the registry is a class of some notebook, and the names that the checks know are modules"
    assert HOUSE.models <= HOUSE.classes.keys()
    assert TRAINING <= HOUSE.modules.keys() and 'evaluate' in HOUSE.modules

# ---- every check can fail

GOOD = {
    '10_layers': ['def _cut(): pass', 'class Stack: pass'],
    '14_train': ['from scvae_nb.layers import Stack', 'def train(): pass'],
    '15_estimator': ['from scvae_nb.train import train',
                     'class LatentModel:\n    def fit(self): self.net_ = self._new()\n    def _new(self): pass\n'
                     '    def _repr_html_(self): pass'],
    '20_ae': ['from scvae_nb.estimator import LatentModel', 'class AENet: pass',
              'class AE(LatentModel):\n    def _new(self): return super()._new()\n    def f(self): return self.net_'],
    '21_vae': ['from scvae_nb.estimator import LatentModel', 'class VAE(LatentModel): pass',
               '@patch\ndef f(self: VAE): return self._new()'],
    '23_evaluate': ['from scvae_nb.layers import Stack\ndef _dots(): pass'],
}

def house(*more):
    "The good house, with `(page, cell)` added; a page whose name ends in .py exports nothing"
    cells = {name: [f'#| default_exp {name[3:]}', *(f'#| export\n{c}' for c in code)] for name, code in GOOD.items()}
    for name, cell in more: cells.setdefault(name, []).append(cell)
    return House([Page(name, sources) for name, sources in cells.items()], {'AE', 'VAE', 'Twin'})

@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_a_good_house(check):
    "What looks like a fault and is none"
    ours = [('23_evaluate', '_dots()\nimport scvae_nb\nfrom scvae_nb.vae import VAE\nmodel._repr_html_()'),
            ('14_train', 'fig._dpi'),
            ('14_train', 'plot(x, y, "k--", c="0.5", ec="w", mfc="none")\nimshow(x, cmap="Blues")'),
            ('14_train', 'plot(x, y, "o", label="b", c="#555555")\nfind(c, "m", "C1orf", "red cell")'),
            ('test_x.py', 'plot(c="red")'),
            ('20_ae', 'AE().net_'), ('test_x.py', 'def _own(): pass\nx._own, x._replace, x.__dict__, getattr(x, "y")')]
    assert check(house(*ours)) == []

@pytest.mark.parametrize('check, name, cell, message', [
    (imports_go_down, '14_train', '#| export\nfrom scvae_nb.ae import AE', '14_train imports 20_ae'),
    (imports_go_down, '14_train', '#| export\ndef f():\n    from scvae_nb.ae import AE', '14_train imports 20_ae'),
    (imports_go_down, '14_train', '#| export\nimport scvae_nb.ae as ae', '14_train imports 20_ae'),
    (imports_go_down, '14_train', '#| export\nfrom scvae_nb import ae', '14_train imports 20_ae'),
    (imports_go_down, '14_train', '#| exporti\nfrom .ae import AE', '14_train imports 20_ae'),
    (imports_go_down, '14_train', '#| export\nfrom scvae_nb.all import *', 'imports all, which no notebook makes'),
    (no_circles, '14_train', '#| export\nfrom scvae_nb.train import x', '14_train: train imports itself'),
    (training_knows_no_model, '14_train', '#| export\nfrom scvae_nb.vae import VAE', '14_train imports vae'),
    (training_knows_no_model, '10_layers', '#| export\nfrom scvae_nb.vae import VAE', '14_train imports vae'),
    (pictures_know_no_model, '23_evaluate', '#| export\nimport scvae_nb.ae', '23_evaluate imports ae'),
    (models_stand_alone, '20_ae', '#| export\nclass Twin(AE): pass', '20_ae: Twin inherits from AE'),
    (models_stand_alone, '21_vae', '#| export\nclass VAENet(ae.AENet): pass', '21_vae: VAENet inherits from AENet'),
    (models_stand_alone, '21_vae', '#| export\nclass Mid(AENet[int]): pass', '21_vae: Mid inherits from AENet'),
    (underscores_stay_home, '23_evaluate', 'model.net_.encoder', '23_evaluate: model.net_'),
    (underscores_stay_home, '23_evaluate', '#| export\nmodel._new()', '23_evaluate: model._new'),
    (underscores_stay_home, '23_evaluate', 'from scvae_nb.layers import _cut', 'from layers import _cut'),
    (underscores_stay_home, 'test_x.py', 'from scvae_nb.layers import _cut as cut', 'from layers import _cut'),
    (underscores_stay_home, 'test_x.py', 'import scvae_nb.layers as l\nl._cut()', 'test_x.py: l._cut'),
    (underscores_stay_home, 'test_x.py', 'model.net_', 'test_x.py: model.net_'),
    (underscores_stay_home, 'test_x.py', 'getattr(model, "net_")', "getattr(model, 'net_')"),
    (colours_come_from_look, '14_train', 'plot(x, color="#3f6a96")', "14_train types '#3f6a96'"),
    (colours_come_from_look, '14_train', 'colours = dict(a="C0")', "14_train types 'C0'"),
    (colours_come_from_look, '14_train', 'plot(x, color="tab:red")', "types 'tab:red'"),
    (colours_come_from_look, '14_train', 'SIDES = ["orange", "0.5", "white"]', "types 'orange'"),
    (colours_come_from_look, '14_train', 'scatter(x, y, c="r")', "types 'r'"),
    (colours_come_from_look, '14_train', 'ax.plot(x, y, "g--")', "types 'g--'"),
    (colours_come_from_look, '14_train', f'bar(x, color="{GREY}")', f"types '{GREY}'"),
    (underscores_stay_home, 'test_x.py', 'monkeypatch.setattr(layers, "_cut", f)', "setattr(layers, '_cut', f)"),
])
def test_finds(check, name, cell, message):
    faults = check(house((name, cell)))
    assert len(faults) == 1 and message in faults[0], faults

def test_finds_what_all_leaves_out():
    assert left_out(house(), 'from .layers import *\nfrom .train import *\nfrom .vae import *') == ['ae', 'estimator',
                                                                                                'evaluate']

def test_finds_a_circle():
    assert len(no_circles(house(('10_layers', '#| export\nfrom scvae_nb.train import train')))) == 2

def test_finds_an_heir_of_an_heir():
    faults = models_stand_alone(house(('21_vae', '#| export\nclass Mid(AE): pass\nclass VAE(Mid): pass')))
    assert faults == ['21_vae: VAE inherits from AE', '21_vae: Mid inherits from AE']
