"""Of which sources a notebook's stored outputs were made: nbs/stamps.json holds a stamp for each, so that it can be
told which are stale.

    python tools/stamp.py                    list the stale notebooks, and why
    python tools/stamp.py --set nbs/X.ipynb  record one, after it was run from top to bottom (`make refresh` does both)
    python tools/stamp.py --why nbs/X.ipynb  list what it depends on

A stamp holds a hash of the notebook's own code cells, one for each module of what the notebook can reach there, and one
for each file of `nbs` that it reads. Comments, formatting, docstrings and markdown do not count.

What a notebook can reach is followed by name, without running anything. A function, class or constant is reached where
code that is reached (the notebook's own to begin with) mentions its name, and its module comes along by imports. A
method is reached where its class is, and its name is mentioned somewhere; one that a library calls always is. Names are
not told apart by what they belong to: `x.take` reaches every `take`. So the list is rather too long than too short: a
page may be called stale that would come out the same. It is too short where a name is put together from pieces
(`getattr(m, "plot_" + kind)`), and it knows nothing of other packages, of data sets, or of files outside `nbs`.
Strings count as names of methods; those handed to `import_module` also as names of modules and classes. The registry
names every model: they all come along where the notebook, or code outside the registry's own module, mentions `MODELS`.
(`load` is beside the registry. It looks there for the class of a model that the page has made itself.)
A notebook that takes some of them only says which, `#| models: ae vae`; a key of another in its code is an error."""
import argparse, ast, hashlib, json, re, symtable, sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Methods that torch and scikit-learn call, beside those with two underscores and those that no code of ours names
HOOKS = {'forward', 'backward', 'fit', 'transform', 'predict', 'predict_proba', 'inverse_transform', 'score'}

# ---- code as text, the same for every Python and every layout

def canonical(node, keep_doc=False):
    "A tree as text: without places, comments and docstrings, and without fields that are empty"
    if isinstance(node, list): return '[' + ','.join(canonical(n, keep_doc) for n in node) + ']'
    if not isinstance(node, ast.AST): return repr(node)
    parts = []
    for name, value in ast.iter_fields(node):
        if name in ('ctx', 'kind', 'type_comment', 'type_ignores'): continue
        if name == 'body' and not keep_doc: value = without_doc(node)
        if name == 'values' and isinstance(node, ast.JoinedStr): value = joined(value)
        if value is None or value == []: continue
        parts.append(f'{name}={canonical(value, keep_doc)}')
    return f"{type(node).__name__}({','.join(parts)})"

def without_doc(node):
    "The body of a function or class without its docstring"
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): return node.body
    return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body

def joined(values):
    "The parts of an f-string with neighbouring texts as one: Pythons cut them differently"
    parts = []
    for v in values:
        is_text = isinstance(v, ast.Constant)
        if is_text and parts and isinstance(parts[-1], ast.Constant): v = ast.Constant(parts.pop().value + v.value)
        if not is_text or v.value: parts.append(v)
    return parts

def digest(text): return hashlib.sha256(text.encode()).hexdigest()[:12]

# ---- what code mentions

@dataclass
class Mentions:
    "Names that code uses"
    names: set = field(default_factory=set)         # variables that are not local to a function
    attributes: set = field(default_factory=set)    # x.name
    strings: set = field(default_factory=set)       # "name", for getattr; and files
    modules: set = field(default_factory=set)       # of the project, imported or named

    def __ior__(self, other):
        for k in vars(self): getattr(self, k).update(getattr(other, k))
        return self

def mentions(node, modules):
    "What a tree mentions; `modules` are the names of the project's"
    found = Mentions(names=global_names(node))
    for n in ast.walk(node):
        if isinstance(n, ast.Call) and called(n) == 'import_module':
            found.names |= words(n)
            found.modules |= words(n) & modules
        if isinstance(n, ast.Attribute):
            found.attributes.add(n.attr)
            if isinstance(n.value, ast.Name): found.names.add(f'{n.value.id}.{n.attr}')
        elif isinstance(n, ast.Constant) and isinstance(n.value, str): found.strings.add(n.value)
        elif isinstance(n, (ast.Import, ast.ImportFrom)):
            found.modules |= imported(n, modules)
            if isinstance(n, ast.ImportFrom): found.names |= {a.name for a in n.names}
    return found

def words(call):
    "The words in a call's strings: `Spec('ae', 'scvae_nb.ae:DeepAE')` has ae, scvae_nb and DeepAE"
    texts = [c.value for a in call.args + call.keywords for c in ast.walk(a) if isinstance(c, ast.Constant)]
    return {word for t in texts if isinstance(t, str) for word in re.findall(r'\w+', t)}

def called(call): return getattr(call.func, 'attr', getattr(call.func, 'id', None))

def global_names(node):
    "Names that a tree takes from outside: a function's own variables hide those of a module"
    def scopes(table): return [table, *(s for child in table.get_children() for s in scopes(child))]
    top, *inner = scopes(symtable.symtable(ast.unparse(node), 'code', 'exec'))
    names = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    return names | {s.get_name() for table in inner for s in table.get_symbols() if s.is_global()}

def imported(node, modules):
    "Modules of the project that an import names; `all` stands for every one"
    if isinstance(node, ast.Import): full = [a.name for a in node.names]
    elif node.level: full = [f'scvae_nb.{node.module or a.name}' for a in node.names]
    elif node.module == 'scvae_nb': full = [f'scvae_nb.{a.name}' for a in node.names]
    else: full = [node.module]
    if 'scvae_nb.all' in full: return modules
    return {name.removeprefix('scvae_nb.') for name in full} & modules

# ---- modules as definitions

@dataclass
class Definition:
    "A function, class, method or constant of a module, or a statement that runs when it is imported"
    module: str
    name: str                    # load, CSRBatch, CSRBatch.take; '' for a statement that has no name
    tree: ast.AST
    mentions: Mentions

    @property
    def owner(self): return self.name.rpartition('.')[0]
    @property
    def last(self): return self.name.rpartition('.')[2]

def named_parts(node):
    "(name, tree) of what a statement of a module defines; a class is its head, and its methods"
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [(f'{owner}.{node.name}' if owner else node.name, node) for owner in patched(node) or ['']]
    if isinstance(node, ast.ClassDef):
        methods = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        fields = {k: getattr(node, k) for k in node._fields}
        head = ast.ClassDef(**fields | dict(body=[n for n in node.body if n not in methods] or [ast.Pass()]))
        return [(node.name, ast.fix_missing_locations(head)), *((f'{node.name}.{m.name}', m) for m in methods)]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        return [(name, node) for name in names] or [('', node)]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant): return []
    return [('', node)]

def patched(node):
    "The classes that `@patch` gives a function to"
    if not any('patch' in ast.unparse(d) for d in node.decorator_list) or not node.args.args: return []
    note = node.args.args[0].annotation
    return [n.id for n in ast.walk(note) if isinstance(n, ast.Name)] if note else []

def parse(source):
    "The tree of a cell, without magics"
    return ast.parse(re.sub(r'^\s*[%!].*$', '', source, flags=re.M))

def code_cells(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']

def lists_models(used): return any(name.split('.')[-1] == 'MODELS' for name in used.names)

class Project:
    "The notebooks, the modules they make, and the benchmark's files"
    def __init__(self, root=ROOT):
        self.nbs, self.stamps = root/'nbs', root/'nbs/stamps.json'
        self.cells = {p.name: code_cells(p) for p in sorted(self.nbs.glob('*.ipynb'))}
        self.module_of, self.sources = {}, {}
        for name, cells in self.cells.items():
            module = re.search(r'^#\|\s*default_exp\s+(\w+)', '\n'.join(cells), re.M)
            if not module: continue
            self.module_of[name] = module[1]
            self.sources[module[1]] = [c for c in cells if re.search(r'^#\|\s*export[is]?\b', c, re.M)]
        self.sources |= {p.stem: [p.read_text(encoding='utf-8')] for p in sorted((root/'bench').glob('*.py'))}

    @cached_property
    def modules(self): return set(self.sources)

    @cached_property
    def statements(self):
        "Module -> what stands in it, one after the other"
        return {m: [n for s in sources for n in parse(s).body] for m, sources in self.sources.items()}

    @cached_property
    def definitions(self):
        out = []
        for module, nodes in self.statements.items():
            for node in nodes:
                if isinstance(node, (ast.Import, ast.ImportFrom)): out += renamed(module, node)
                else: out += [Definition(module, n, t, mentions(t, self.modules)) for n, t in named_parts(node)]
        return out

    @cached_property
    def imports(self):
        "Module -> modules that it imports at its top"
        def of(nodes): return [n for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
        return {m: {o for n in of(nodes) for o in imported(n, self.modules)} for m, nodes in self.statements.items()}

    @cached_property
    def registry(self):
        "The modules where models are registered, and all words that name these"
        calls = [(m, n) for m, nodes in self.statements.items() for node in nodes for n in ast.walk(node)
                 if isinstance(n, ast.Call) and called(n) == 'Spec']
        keys = {call.args[0].value: words(call) for _, call in calls if isinstance(call.args[0], ast.Constant)}
        return {m for m, _ in calls}, keys

    def models_of(self, name, strings):
        "Words that name the models which a notebook can take from the registry: those it says, or all"
        _, keys = self.registry
        said = re.search(r'^#\|\s*models:(.*)$', '\n'.join(self.cells[name]), re.M)
        wanted = set(said[1].split()) if said else set(keys)
        unsaid = (strings & set(keys)) - wanted
        if unsaid: raise ValueError(f"{name} says which models it takes, its code names {', '.join(sorted(unsaid))}")
        return {word for k in wanted for word in keys[k]}

    @cached_property
    def called(self):
        "Methods that some code of ours, or some notebook, names"
        trees = [d.tree for d in self.definitions] + [parse(s) for cells in self.cells.values() for s in cells]
        return {n.attr for t in trees for n in ast.walk(t) if isinstance(n, ast.Attribute)}

    def reached(self, name):
        "The definitions that a notebook's code can reach, its own module aside, and all that is mentioned on the way"
        own = self.module_of.get(name)
        all_mentions, reached = Mentions(), []
        for source in self.cells[name]: all_mentions |= mentions(parse(source), self.modules)
        homes, named = self.registry[0], self.models_of(name, all_mentions.strings)
        models = Mentions(names=named, modules=named & self.modules)
        if lists_models(all_mentions): all_mentions |= models
        rest = [d for d in self.definitions if d.module != own]
        while True:
            modules = self.closure(all_mentions.modules)
            reached_names = {d.name for d in reached} | self.own_classes(own)
            new = [d for d in rest if d.module in modules and self.is_reached(d, all_mentions, reached_names)]
            if not new: return reached, all_mentions
            reached += new
            rest = [d for d in rest if d not in new]
            for d in new: all_mentions |= d.mentions
            if any(d.module not in homes and lists_models(d.mentions) for d in new): all_mentions |= models

    def own_classes(self, own):
        "A method may be added to a class of the notebook from elsewhere"
        return {d.name for d in self.definitions if d.module == own}

    def closure(self, modules):
        "With the modules that come along"
        found, todo = set(modules), list(modules)
        while todo:
            new = self.imports.get(todo.pop(), set()) - found
            found |= new
            todo += new
        return found

    def is_reached(self, d, used, reached_names):
        if not d.name: return True                                        # runs whenever its module is imported
        if not d.owner:
            qualified = {f'{m}.{d.name}' for m in (d.module, *self.aliases.get(d.module, ()))}
            return d.name in used.names or bool(qualified & used.names)
        is_hook = d.last in HOOKS or d.last.startswith('__') or d.last not in self.called
        return d.owner in reached_names and (is_hook or d.last in used.attributes or d.last in used.strings)

    @cached_property
    def aliases(self):
        "Module -> other names that it goes by (`import scvae_nb.data as d`)"
        trees = [n for nodes in self.statements.values() for n in nodes]
        trees += [parse(s) for cells in self.cells.values() for s in cells]
        out = {}
        for n in (n for t in trees for n in ast.walk(t) if isinstance(n, (ast.Import, ast.ImportFrom))):
            for a in n.names:
                if a.asname: out.setdefault(a.name.removeprefix('scvae_nb.'), set()).add(a.asname)
        return out

    def stamp(self, name):
        "What a notebook depends on: {'cells': hash, module: hash, file: hash}"
        reached, used = self.reached(name)
        trees = [parse(s) for s in self.cells[name]]
        docs = self.shown_docs(trees)
        out = dict(cells=digest('\n'.join(canonical(t, bool(docs)) for t in trees if t.body)))
        for module in sorted({d.module for d in reached}):
            texts = [f'{d.name}: {canonical(d.tree, d.name in docs)}' for d in reached if d.module == module]
            out[module] = digest('\n'.join(sorted(texts)))
        return out | {p.name: digest(p.read_text(encoding='utf-8')) for p in self.files(used.strings)}

    def shown_docs(self, trees):
        "Names whose docstrings a notebook may show: those it mentions, if it asks for any `__doc__`"
        used = Mentions()
        for t in trees: used |= mentions(t, self.modules)
        return used.names if '__doc__' in used.attributes | used.names else set()

    def files(self, strings):
        "Files of `nbs` that code names: scores, the bibliography"
        paths = [p for p in sorted(self.nbs.iterdir()) if p.suffix in ('.csv', '.json', '.bib') and p != self.stamps]
        return [p for p in paths if any(s == p.name or s.endswith('/' + p.name) for s in strings)]

    def stored(self): return json.loads(self.stamps.read_text()) if self.stamps.exists() else {}

    def why_stale(self, name):
        "What has changed since a notebook was run; nothing where it is fresh"
        now, then = self.stamp(name), self.stored().get(name)
        if then is None: return ['it has no stamp']
        changed = [k for k in sorted(now.keys() | then.keys()) if now.get(k) != then.get(k)]
        return ['its own cells changed' if k == 'cells' else f'{k} changed' for k in changed]

    def set(self, name):
        "Record that a notebook's outputs are of now"
        kept = {k: v for k, v in self.stored().items() if k in self.cells}
        stamps = dict(sorted((kept | {name: self.stamp(name)}).items()))
        self.stamps.write_text(json.dumps(stamps, indent=1) + '\n')

def renamed(module, node):
    "`from scvae_nb.m import a as b` makes a `b` that mentions `a`"
    pairs = [(a.asname, a.name) for a in node.names if a.asname and isinstance(node, ast.ImportFrom)]
    return [Definition(module, new, node, Mentions(names={old})) for new, old in pairs]

# ---- the command

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='*', type=Path, help='paths (default: all)')
    p.add_argument('--set', action='store_true', help='record these notebooks as run just now')
    p.add_argument('--why', action='store_true', help='list what these notebooks depend on')
    a = p.parse_args()
    project = Project()
    names = [n.name for n in a.notebooks] or list(project.cells)
    unknown = [n for n in names if n not in project.cells]
    if unknown: p.error(f"{', '.join(unknown)}: not in nbs")
    if a.set and not a.notebooks: p.error('--set needs the notebooks that were run')
    if a.set:
        for name in names: project.set(name)
    elif a.why:
        for name in names: tell(project, name)
    else: sys.exit(list_stale(project, names))

def tell(project, name):
    reached, used = project.reached(name)
    print(f'nbs/{name}')
    for module in sorted({d.module for d in reached}):
        print(f'  {module}:', ', '.join(sorted({d.name for d in reached if d.module == module and d.name})))
    for p in project.files(used.strings): print(f'  {p.name}')

def list_stale(project, names):
    "Print the stale ones; 1 if there are any"
    stale = {name: why for name in names if (why := project.why_stale(name))}
    for name, why in stale.items(): print(f"nbs/{name}: {'; '.join(why)}")
    return int(bool(stale))

if __name__ == '__main__': main()
