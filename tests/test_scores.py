"""Two pages show scores on PBMC3k, and both read them from nbs/scores.csv: what they store agrees with it, to the last
digit that is shown. To write the file and both pages anew, run them with SCVAE_NB_RECORD=scores.csv set."""
import html, re
import nbformat, pandas as pd, pytest
from conftest import ROOT
from scvae_nb.beyond import beyond_table, comparison, verdict_table
from scvae_nb.report import (KEYS, against_published, claim_beta, claim_homogeneity, claim_order, claim_pca,
                             conclusion, heading, latent_table, missed_scores, read_scores, recorded_variants,
                             variants_table)

FILE = ROOT/'nbs/scores.csv'
missing = not FILE.exists()
pytestmark = pytest.mark.xfail(missing, run=False, reason='nbs/scores.csv comes with the next run of both pages')

def words(text):
    "HTML or Markdown as words and numbers, without tags"
    text = re.sub(r'<style.*?</style>', '', text, flags=re.S)
    return ' '.join(html.unescape(re.sub(r'<[^>]+>', ' ', text)).split())

def page(name):
    "All that a notebook stores of text and tables, as words"
    outputs = [o.get('data', {}) for c in nbformat.read(ROOT/'nbs'/name, 4).cells for o in c.get('outputs', [])]
    return words(' '.join(d.get('text/html') or d.get('text/markdown', '') for d in outputs))

def table_words(table): return words(table.to_html(notebook=True))

def found(table, page):
    "The table stands on the page; and would not be found there if its numbers were others"
    numbers = table.select_dtypes('number').columns
    return table_words(table) in page and table_words(table.assign(**(table[numbers] + .001).round(3))) not in page

@pytest.fixture(scope='module')
def report(): return page('24_report.ipynb')

@pytest.fixture(scope='module')
def beyond(): return page('36_beyond.ipynb')

@pytest.fixture(scope='module')
def table(): return read_scores(FILE)

@pytest.fixture(scope='module')
def of_report(table): return table[table.model.isin(KEYS)]

def test_every_run_is_there_once():
    rows = read_scores(FILE, None)
    n = rows.groupby(['model', 'variant']).size()
    assert not rows.duplicated(['model', 'variant', 'seed']).any()
    assert [n[m, ''] for m in KEYS] == [1, 5, 5, 5] and (n['vae', 'β = 1'], n['vsc', 'β = 1']) == (1, 5)

def test_table_of_latents(of_report, report): assert found(latent_table(of_report), report)

def test_table_of_variants(of_report, report):
    rows = variants_table(recorded_variants(FILE), of_report)
    assert found(rows.round(3).rename(columns=heading), report)

def test_claims(of_report, report):
    half = read_scores(FILE, 'β = 1').query('model == "vsc"')
    for claim in (claim_order, claim_homogeneity, claim_pca):
        result = claim(of_report)
        assert f'{result.number}. {result.says} {result.measured} {result.verdict}' in report
    result = claim_beta(of_report, half)
    assert f'{result.number}. {result.says} {result.measured} {result.verdict}' in report

def test_sentences_of_the_report(of_report, report):
    twelve = against_published(of_report)
    assert f'**{twelve.reached.sum()} of the twelve published scores' in report
    assert missed_scores(twelve).strip() in report
    _, scores = conclusion(pd.DataFrame(dict(verdict=[])), of_report).split('told here. ')
    assert scores in report

def test_beyond(table, beyond):
    assert found(beyond_table(table), beyond)
    assert table_words(verdict_table(table)) in beyond

def test_sentence_of_beyond(table, beyond):
    facts = comparison(table)
    for part in (facts['on_picture'], facts['on_latent'], facts['counts'], f"up to {facts['spread']:.3f}"):
        assert part in beyond, part
