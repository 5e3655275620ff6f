#!/usr/bin/env bash
# From a folder of photos and a CSV of clicks to an exported model and a scored request: docs/tutorial.md, command by command.
# Run it in the repository's root, with the environment active: bash examples/own_catalogue/tutorial.sh
set -euo pipefail
trap 'crossmedia imgserver stop --store shop/store >/dev/null 2>&1 || true' ERR

python examples/own_catalogue/make_shop.py --out shop

crossmedia imgserver manifest shop/photos --out shop/photos.parquet
crossmedia imgserver precompute --store shop/store --catalogue shop/photos.parquet

crossmedia imgserver serve --store shop/store --catalogue shop/photos.parquet --background
crossmedia imgserver health --store shop/store --wait

cp examples/own_catalogue/clicks.toml shop/
crossmedia features build shop/clicks.toml --out shop/samples
crossmedia features inspect shop/samples

crossmedia trainer fit --samples shop/samples --model din --no-images --out shop/runs/ids
crossmedia trainer fit --samples shop/samples --model din --images --out shop/runs/din

crossmedia trainer export shop/runs/din --out shop/din.pt2
crossmedia trainer score shop/din.pt2 --exported --samples shop/samples --out shop/scores.parquet

python examples/own_catalogue/score.py shop/din.pt2 localhost:7070 shop/photos.parquet

crossmedia imgserver stop --store shop/store
