"""nbs/llms.txt, a list of the pages for programs that read: python tools/llms.py [FILE]"""
import re, sys
from pathlib import Path
import nbformat, yaml
from pages import page_of

ROOT = Path(__file__).resolve().parents[1]

def text():
    "Title, what the project is for, and a line for each page"
    quarto = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['website']
    parts = [f"# {quarto['title']}", '', f"> {quarto['description']}"]
    for entry in quarto['sidebar']['contents']:
        section, pages = ('Start', [entry]) if isinstance(entry, str) else (entry['section'], entry['contents'])
        parts += ['', f'## {section}', '', *(line(quarto['site-url'], name) for name in pages)]
    return '\n'.join(parts) + '\n'

def line(site, name):
    first = nbformat.read(ROOT/'nbs'/name, 4).cells[0].source
    title, purpose = re.match(r'#\s*(.*?)\s*\n+>\s*(.*?)\s*$', first, re.S).groups()
    return f'- [{title}]({site}/{page_of(name)}): {purpose}'

if __name__ == '__main__':
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT/'nbs/llms.txt'
    target.write_text(text(), encoding='utf-8')
