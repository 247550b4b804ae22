"CITATION.cff can be read, and says what settings.ini and the bibliography say."
from configparser import ConfigParser
import yaml
from pybtex.database import parse_file
from pybtex.richtext import Text
from conftest import ROOT

CFF = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))

def settings():
    ini = ConfigParser()
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']

def test_required_fields():
    "Those that the format asks for (cff-version 1.2.0), in the project and in each reference"
    assert CFF['cff-version'] == '1.2.0' and CFF['message'] and CFF['title'] and CFF['authors']
    for work in CFF['references']: assert work['type'] and work['title'] and work['authors']
    people = CFF['authors'] + [a for work in CFF['references'] for a in work['authors']]
    for person in people: assert 'name' in person or {'family-names', 'given-names'} <= person.keys()

def test_says_what_settings_say():
    ini = settings()
    assert str(CFF['version']) == ini['version'] and CFF['title'] == ini['title']
    assert CFF['abstract'] == ini['description'] and CFF['keywords'] == ini['keywords'].split()
    assert CFF['authors'] == [{'name': ini['author'], 'email': ini['author_email']}]
    assert CFF['repository-code'] == ini['git_url'] and CFF['url'] == ini['doc_host'] + ini['doc_baseurl']
    assert CFF['license'] == 'Apache-2.0' and ini['license'] == 'apache2'

def test_references_are_those_of_the_bibliography():
    bib = parse_file(ROOT/'nbs/references.bib').entries
    for work, key in zip(CFF['references'], ['okunator2019variational', 'lahdesmaki2023machine'], strict=True):
        entry = bib[key]
        assert work['title'] == str(Text.from_latex(entry.fields['title']))
        assert str(work['year']) == entry.fields['year'] and work.get('url') == entry.fields.get('url')
