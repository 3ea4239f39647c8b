"""Gives the fuzz targets something to begin with: the captured record sets, and what is compressed in them.

Run from anywhere: `python native/dataplane/fuzz/seed_corpus.py`, then `cargo +nightly fuzz run <target>`.
"""

from pathlib import Path

HERE = Path(__file__).parent
V2_HEADER_BYTES = 61


def main() -> None:
    for fixture in sorted((HERE.parent / "tests" / "fixtures").glob("*.txt")):
        record_set = bytes.fromhex(fixture.read_text().split("\n", 1)[0])
        seeds = {"decode": b"\x00\x20" + record_set, "scan": record_set}
        codec = next(
            (word for word in fixture.stem.split("_") if word in ("gzip", "snappy", "lz4", "zstd")), None
        )
        if codec and "_v2_" in fixture.stem:
            seeds[codec] = record_set[V2_HEADER_BYTES:]
        for target, seed in seeds.items():
            folder = HERE / "corpus" / target
            folder.mkdir(parents=True, exist_ok=True)
            (folder / fixture.stem).write_bytes(seed)


if __name__ == "__main__":
    main()
