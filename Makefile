# `make demo` and `make test` do everything, from an empty machine on.
PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check clean

demo: $(READY)
	$(BIN)/napari-dkp demo

test: check
	xvfb-run -a -s "-screen 0 1400x900x24" $(BIN)/pytest

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
