"""The site by pandoc alone, to look at where there is no Quarto: python tools/preview.py OUT [notebook ...]

It takes the pages that Quarto would get, and shows text, equations, references, folds, figures and tables with the
site's own style sheet. Quarto's navigation, search and cross-page numbering are not there."""
import argparse, base64, html, re, shutil
from pathlib import Path
import pypandoc, yaml
from execnb.nbio import read_nb
from nbdev.processors import FilterDefaults
from pages import page_of, text_of

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
FORMAT = 'markdown+tex_math_dollars+raw_html+pipe_tables+fenced_divs+backtick_code_blocks'
SITE = 'https://scvae-nb.github.io/scvae_nb/'
PANDOC = ['--standalone', '--mathml', '--citeproc', '--toc', '--toc-depth=3', '--css=frame.css', '--css=styles.css',
          '--section-divs', '--syntax-highlighting=monochrome', '--wrap=none', '-M', 'lang=en-GB',
          '-M', 'link-citations=true']
KINDS = dict(fig='Figure', tbl='Table', eq='Equation', sec='Section')
FRAME = '''
body { max-width: 850px; margin: 0 auto; padding: 0 1rem; font: 17px/1.6 system-ui, sans-serif; }
nav#TOC { font-size: .8em; }
table { border-collapse: collapse; border: 0; } td, th { border: 0; border-bottom: 1px solid #ddd; }
'''

def processed(path):
    "A notebook after nbdev's steps and ours"
    nb = read_nb(path)
    FilterDefaults()(nb)
    return nb

def cell_options(source):
    "(Quarto's options, the code without them)"
    found, code = {}, []
    for line in source.splitlines():
        m = re.match(r'#\|\s*([\w-]+):\s*(.*)', line)
        if m: found |= yaml.safe_load(f'{m[1]}: {m[2]}')
        else: code.append(line)
    return found, '\n'.join(code).strip('\n')

class Writer:
    "Markdown of a page, its pictures beside it"
    def __init__(self, nb, folder):
        self.nb, self.folder, self.numbers = nb, folder, {}

    def markdown(self):
        head, *cells = self.nb.cells
        self.meta = yaml.safe_load(head.source.strip().strip('-')) or {}
        parts = [f"> {self.meta.get('description', '')}\n"]
        for cell in cells:
            if cell.cell_type == 'code' and cell.source: parts += self.code(cell)
            elif cell.cell_type == 'markdown': parts.append(self.tables(cell.source))
        return self.crossrefs('\n\n'.join(parts))

    def code(self, cell):
        opts, source = cell_options(cell.source)
        if opts.get('include') is False: return
        block = f'```python\n{source}\n```'
        if opts.get('echo') is False: block = ''
        elif opts.get('code-fold') in (True, 'true'):
            summary = html.escape(str(opts.get('code-summary', 'Code')))
            opening = f'```{{=html}}\n<details class="code-fold"><summary>{summary}</summary>\n```'
            block = f'{opening}\n\n{block}\n\n```{{=html}}\n</details>\n```'
        yield block
        if opts.get('output') is False: return
        for k, o in enumerate(cell.get('outputs', [])):
            yield '\n'.join(['::: cell-output', self.output(o, opts, f'{cell.id}-{k}'), ':::'])

    def output(self, o, opts, name):
        data = o.get('data', {})
        def text(key): return text_of(data[key])
        if o.output_type == 'stream': return f"```\n{''.join(o.text).rstrip()}\n```"
        for kind, ending in ('image/png', 'png'), ('image/svg+xml', 'svg'):
            if kind in data: return self.figure(text(kind), ending, opts, name, o.get('metadata', {}).get(kind, {}))
        if 'text/html' in data:
            page, caption = f"```{{=html}}\n{text('text/html')}\n```", self.caption(opts)
            return f'{page}\n\n{caption}' if str(opts.get('label', '')).startswith('fig-') else caption + page
        if 'text/markdown' in data: return self.caption(opts) + text('text/markdown')
        return f"```\n{text('text/plain')}\n```" if 'text/plain' in data else ''

    def figure(self, data, ending, opts, name, size):
        name = str(opts.get('label', name))
        path = self.folder/f'{name}.{ending}'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data) if ending == 'png' else data.encode())
        alt = str(opts.get('fig-alt', '')).replace('"', '&quot;')
        width = f' width={size["width"]}px' if 'width' in size else ''
        return f'![{self.number(opts)}]({path.parent.name}/{path.name}){{#{name} alt="{alt}"{width}}}'

    def caption(self, opts):
        text = self.number(opts)
        return f"[]{{#{opts['label']}}}{f'*{text}*' if text else ''}\n\n" if 'label' in opts else ''

    def number(self, opts):
        "A caption, with its number before it where there is a label"
        label = str(opts.get('label', ''))
        kind = label.partition('-')[0]
        text = opts.get('fig-cap' if kind == 'fig' else 'tbl-cap', '')
        return f'{KINDS[kind]} {self.count(label)}: {text}' if kind in ('fig', 'tbl') else str(text)

    def count(self, label):
        "The number of a figure or table among those of its kind"
        same = [k for k in self.numbers if k[:3] == label[:3]]
        return self.numbers.setdefault(label, len(same) + 1)

    def tables(self, text):
        "Markdown tables whose caption has a label: the number before the caption"
        def caption(m): return f'\n: Table {self.count(m[2])}: {m[1]} {{#{m[2]}}}'
        return re.sub(r'\n: (.*) \{#(tbl-[\w-]+)\}', caption, text)

    def crossrefs(self, text):
        "`@fig-x` as a link with its number; equations by name"
        def link(m):
            kind = KINDS[m[1].partition('-')[0]]
            return f"[{kind} {self.numbers.get(m[1], '')}](#{m[1]})"
        text = re.sub(r'(\$\$\n?)\s*\{#(eq-[\w-]+)\}', r'\1 []{#\2}', text)
        return re.sub(r'(?<![\w\\])@((?:fig|tbl|eq|sec)-[\w-]*\w)', link, text)

def write(path, out):
    "One page as HTML, and its name"
    nb = processed(path)
    name = page_of(path.name)
    writer = Writer(nb, out/f'{Path(name).stem}_files')
    text = writer.markdown()
    text = re.sub(r'\]\(([\w.]+\.ipynb)', lambda m: f']({page_of(m[1])}', text)
    text = text.replace(SITE, '')
    for part, tag in ('before', '<main class="content">'), ('after', '</main>'): (out/f'{part}.html').write_text(tag)
    source = out/f'{Path(name).stem}.md'
    source.write_text(text, encoding='utf-8')
    args = ['-M', f"title={writer.meta.get('title', name)}", f'--include-before-body={out}/before.html',
            f'--include-after-body={out}/after.html', f'--bibliography={NBS}/references.bib', *PANDOC]
    pypandoc.convert_file(str(source), 'html5', format=FORMAT, extra_args=args, outputfile=str(out/name))
    return name

def build(out, notebooks=None):
    "All pages, or those named"
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out/'frame.css').write_text(FRAME)
    for name in 'styles.css', 'images', 'plotly.min.js', 'plots.js':
        source = NBS/name
        if source.is_dir(): shutil.copytree(source, out/name, dirs_exist_ok=True)
        elif source.exists(): shutil.copy(source, out/name)
    return [write(NBS/n, out) for n in notebooks or sorted(p.name for p in NBS.glob('*.ipynb'))]

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('out', type=Path)
    p.add_argument('notebooks', nargs='*')
    a = p.parse_args()
    for name in build(a.out, a.notebooks): print(a.out/name)
