//! Record sets that other clients wrote, against what another client reads in them. tests/golden/capture_batches.py
//! captured both.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{OPTIONS, Owned, decode, decode_with};
use penstock_dataplane::batch::scan;

struct Fixture {
    name: String,
    record_set: Vec<u8>,
    records: Vec<Owned>,
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |index| u8::from_str_radix(&text[index..index + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

fn field(text: &str) -> Option<Vec<u8>> {
    (text != "-").then(|| unhex(text.strip_prefix('x').unwrap()))
}

fn record(line: &str) -> Owned {
    let fields: Vec<&str> = line.split(' ').collect();
    let header = |text: &&str| {
        let (key, value) = text.split_once('=').unwrap();
        (field(key).unwrap(), field(value))
    };
    Owned {
        offset: fields[0].parse().unwrap(),
        timestamp: fields[1].parse().unwrap(),
        timestamp_type: fields[2].parse().unwrap(),
        leader_epoch: fields[3].parse().unwrap(),
        key: field(fields[4]),
        value: field(fields[5]),
        headers: fields[6..].iter().map(header).collect(),
    }
}

fn fixtures() -> Vec<Fixture> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let (record_set, records) = text.split_once('\n').unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Fixture {
            name,
            record_set: unhex(record_set),
            records: records.lines().map(record).collect(),
        }
    };
    let mut all: Vec<Fixture> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| read(entry.unwrap().path()))
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(all.len() >= 30, "the fixtures are in place");
    all
}

#[test]
fn every_writer_every_format_every_codec() {
    for fixture in fixtures() {
        let first = fixture.records[0].offset;
        let records = decode(&fixture.record_set, first)
            .unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
        assert_eq!(records.len(), 6, "{}", fixture.name);
        for (record, expected) in records.iter().zip(&fixture.records) {
            assert_eq!(record, expected, "{}", fixture.name);
        }
    }
}

#[test]
fn the_scan_knows_where_to_go_on() {
    for fixture in fixtures() {
        let found = scan(&fixture.record_set).unwrap();
        let last = fixture.records.last().unwrap();
        assert_eq!(found.next_offset, Some(last.offset + 1), "{}", fixture.name);
        assert_eq!(found.complete_bytes, fixture.record_set.len());
        assert_eq!(found.last_leader_epoch, last.leader_epoch);
    }
}

#[test]
fn a_fetch_from_the_middle_skips_what_is_below() {
    for fixture in fixtures() {
        for (skipped, expected) in fixture.records.iter().enumerate() {
            let records = decode(&fixture.record_set, expected.offset).unwrap();
            assert_eq!(
                records,
                fixture.records[skipped..],
                "{} from {}",
                fixture.name,
                expected.offset
            );
        }
        let beyond = fixture.records.last().unwrap().offset + 1;
        assert_eq!(
            decode_with(&fixture.record_set, beyond, &OPTIONS, None, 1),
            Ok((vec![], beyond))
        );
    }
}

#[test]
fn one_log_of_all_formats() {
    // Offsets that begin again are those of a log that goes back: only what is new may come.
    for fixture in fixtures() {
        let twice = [fixture.record_set.clone(), fixture.record_set.clone()].concat();
        assert_eq!(
            decode(&twice, 0).unwrap(),
            fixture.records,
            "{}",
            fixture.name
        );
    }
}

#[test]
fn any_flipped_bit_is_noticed_or_harmless() {
    // Base offset, length and leader epoch are outside every checksum, and in v2 so is the magic byte: those may give
    // other records or none. Uncompressed v0 and v1 have such a header before every message, so they are left out.
    let single = |fixture: &Fixture| scan(&fixture.record_set).unwrap().batches == 1;
    for fixture in fixtures().into_iter().filter(single) {
        let first = fixture.records[0].offset;
        for at in 0..fixture.record_set.len().min(700) {
            let mut flipped = fixture.record_set.clone();
            flipped[at] ^= 1 << (at % 8);
            let noticed = decode(&flipped, first).is_err();
            assert!(at < 17 || noticed, "{} byte {at}", fixture.name);
        }
    }
}

#[test]
fn a_record_set_cut_anywhere_gives_whole_batches_or_an_error() {
    for fixture in fixtures() {
        let first = fixture.records[0].offset;
        for length in 1..fixture.record_set.len() {
            match decode(&fixture.record_set[..length], first) {
                Ok(records) => assert_eq!(
                    records,
                    fixture.records[..records.len()],
                    "{}",
                    fixture.name
                ),
                Err(error) => assert!(!error.message.is_empty()),
            }
        }
    }
}
