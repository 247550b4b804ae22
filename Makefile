# Everything a person needs; `make` alone lists it. Only make and Python >= 3.10 have to be there.
# On Linux, pip's default build of PyTorch brings gigabytes of CUDA. Without a GPU, avoid them once, when installing:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make report

PYTHON   ?= python3
DATA     ?= demo
SEEDS    ?= 1
LABELS   ?=
VARIANTS ?= 0
ROUNDS   ?= 3
KERNELS  ?= default avx2 avx512
THREADS  ?= 1 2
ONLY     ?= $(sort $(wildcard nbs/*.ipynb))
STALE    ?=
OUT      ?= _report/$(basename $(patsubst %.gz,%,$(notdir $(patsubst %/,%,$(DATA)))))
BIN      := .venv/bin
ONE      := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1   # a thread for each process: numba alone would give torch all cores again
LIMIT    := $(if $(shell command -v timeout 2>/dev/null),timeout 1200)

.PHONY: help report test kernels bench docs refresh readme lint clean
help:  ## list the commands
	@sed -n 's/^\([a-z]*\):.*  ## /make \1\t/p' Makefile | expand -t 15

report: .venv/.installed  ## the report: [DATA=demo|pbmc3k|path/to/file] [SEEDS=1] [LABELS=column] [OUT=_report/<name>] [VARIANTS=0]
	$(BIN)/scvae-nb report --data '$(DATA)' --seeds $(SEEDS) --out '$(OUT)'$(if $(LABELS), --labels '$(LABELS)')$(if $(filter-out 0,$(VARIANTS)), --variants)

test: .venv/.installed  ## every check: the notebooks, then tests/ (set SCVAE_NB_DATA to include PBMC3k)
	$(ONE) $(LIMIT) $(BIN)/nbdev_test --n_workers 2 --timing
	$(ONE) $(BIN)/python -m pytest -n 2 --dist loadfile --junitxml=_report/tests.xml

kernels: .venv/.installed  ## every check as other processors run it, hours: [KERNELS="default avx2 avx512"] [THREADS="1 2"]
	BIN='$(BIN)' KERNELS='$(KERNELS)' THREADS='$(THREADS)' sh tools/kernels.sh

bench: .venv/.installed .bench-venv/.installed  ## time and memory against a plain dense loop and scvi-tools, in _bench: [ROUNDS=3]
	$(BIN)/python bench/run.py --scvi .bench-venv/bin/python --rounds $(ROUNDS)

docs: .venv/.installed  ## the site, in _docs (needs Quarto)
	@command -v quarto >/dev/null || { echo 'make docs needs Quarto, which is not on PATH: get it from https://quarto.org/docs/get-started/'; exit 1; }
	PYTHONPATH=tools $(BIN)/nbdev_proc_nbs && cd _proc && quarto render && cd .. && rm -rf _docs && mv _proc/_docs _docs
	@echo "The site is in _docs: open _docs/index.html"

refresh: export SCVAE_NB_RECORD = scores.csv   # the scores that two pages share
refresh: .venv/.installed  ## run notebooks anew, slow cells too, store what they show and stamp it: [ONLY=nbs/X.ipynb] [STALE=1]
	$(BIN)/nbdev_export
	for nb in $(ONLY); do \
	  if [ -n '$(STALE)' ] && $(BIN)/python tools/stamp.py $$nb > /dev/null; then continue; fi; \
	  $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.timeout=-1 $$nb || exit 1; \
	  $(BIN)/python tools/stamp.py --set $$nb || exit 1; \
	done
	$(BIN)/nbdev_clean && $(MAKE) readme

readme: .venv/.installed  ## README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py README.md

lint: .venv/.installed readme  ## look at every line, clean and export the notebooks; fails where that changes a file
	$(BIN)/ruff check && $(BIN)/nbdev_clean && $(BIN)/nbdev_export && git diff --exit-code

clean:  ## remove what was built; .venv and _report stay
	rm -rf _docs _proc build dist *.egg-info .pytest_cache .ruff_cache .hypothesis nbs/nbdev.yml

.venv/.installed: settings.ini setup.py constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo 'There is no $(PYTHON) here. Install Python 3.10 or later, or name one: make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is `$(PYTHON) -V 2>&1`; scvae_nb needs Python 3.10 or later. Name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo '$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv'; exit 1; }
	@echo 'Installing scvae_nb and what it needs into .venv: once, some minutes.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

.bench-venv/.installed: bench/requirements.txt
	$(PYTHON) -m venv .bench-venv
	.bench-venv/bin/python -m pip install -r bench/requirements.txt
	@touch $@
