# `make demo` and `make test` do everything, from an empty machine on.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-core test-viewer check clean

demo: $(READY)
	$(BIN)/napari-dkp demo

# Those that need a screen beside those that do not: two cores, half the time.
test: check
	$(MAKE) -j2 --output-sync=target test-core test-viewer

test-core: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest --ignore=tests/napari

test-viewer: $(READY)
	OMP_NUM_THREADS=1 xvfb-run -a -s "-screen 0 1400x900x24" $(BIN)/pytest tests/napari

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/npe2 validate napari.yaml
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt tools/bootstrap.sh
	PYTHON="$(PYTHON)" tools/bootstrap.sh $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build dist demo
