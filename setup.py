"Everything about the project is said once, in settings.ini; this hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser()
ini.read(here/'settings.ini', encoding='utf-8')
cfg, lib = ini['DEFAULT'], ini['DEFAULT']['lib_name']
report = cfg['report_requirements'].split()                  # the report, its data sets and its pictures
extras = dict(report=report, dev=report + cfg['dev_requirements'].split())

setup(
    name=lib, version=cfg['version'], license='Apache-2.0',
    description=cfg['description'], keywords=cfg['keywords'], author=cfg['author'], author_email=cfg['author_email'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    url=cfg['git_url'], project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl']},
    classifiers=['Development Status :: 3 - Alpha', f"Intended Audience :: {cfg['audience']}",
                 'Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Bio-Informatics'],
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(), extras_require=extras,
    packages=find_packages(include=[lib, lib + '.*']),
    package_data={lib: ['report.ipynb', 'references.bib']},  # links into nbs/; the wheel holds what they point to
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{lib}={lib}._modidx:d']},
    zip_safe=False,
)
