#!/bin/sh
# What CI runs, and what to run before a push: build the guest, test it for leaks, keep the report.
set -eu
cd "$(dirname "$0")"
chiron build .
python -m pytest --leak-selfcheck --junit-xml build/tests.xml
chiron leaktest build/guest.wasm --junit build/leaktest.xml
