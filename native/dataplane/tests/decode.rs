//! The rules of reading: what is skipped, what ends a chunk, where the next fetch starts.

mod common;

use bytes::Bytes;
use common::{
    OPTIONS, altered, batch, chunks_of, decode, decode_with, offsets, records_of, stored,
};
use penstock_dataplane::batch::{BatchHeader, scan};
use penstock_dataplane::compression::Compression;
use penstock_dataplane::decode::{Aborted, DecodeErrorKind, DecodeOptions, Decoder};
use penstock_dataplane::encode::{BatchBuilder, Producer};

const TRANSACTIONAL: u8 = 0x10;
const CONTROL: u8 = 0x20;

fn transactional(base_offset: i64, count: usize, producer_id: i64, codec: Compression) -> Vec<u8> {
    altered(batch(base_offset, count, codec), |batch| {
        batch[22] |= TRANSACTIONAL;
        batch[43..51].copy_from_slice(&producer_id.to_be_bytes());
    })
}

fn marker(offset: i64, producer_id: i64, commit: bool) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None, None);
    let key = [0, 0, 0, u8::from(commit)];
    builder
        .append(5, Some(&key), Some(&[0, 0, 0, 0, 0, 0]), &[])
        .unwrap();
    let producer = Producer {
        id: producer_id,
        epoch: 0,
        base_sequence: -1,
        transactional: true,
    };
    altered(stored(builder.build(&producer).unwrap(), offset), |batch| {
        batch[22] |= CONTROL
    })
}

fn committed(record_set: &[u8], aborted: &[(i64, i64)]) -> (Vec<i64>, i64) {
    let aborted = aborted.iter().map(|&(producer_id, first_offset)| Aborted {
        producer_id,
        first_offset,
    });
    let (records, next) =
        decode_with(record_set, 0, &OPTIONS, Some(aborted.collect()), 1 << 20).unwrap();
    (offsets(&records), next)
}

#[test]
fn uncompressed_records_are_slices_of_the_response() {
    let record_set = Bytes::from(
        [
            batch(0, 3, Compression::None),
            batch(3, 3, Compression::None),
        ]
        .concat(),
    );
    let mut decoder = Decoder::new(record_set.clone(), 0, &OPTIONS, None);
    let (chunks, error) = chunks_of(&mut decoder, 1 << 20);
    assert_eq!((chunks.len(), error), (1, None));
    let inside = record_set.as_ptr_range();
    for index in 0..chunks[0].len() {
        assert!(inside.contains(&chunks[0].value(index).unwrap().as_ptr()));
        assert_eq!(
            chunks[0].shared_value(index).unwrap(),
            format!("value-{index}")
        );
        assert_eq!(chunks[0].shared_key(index).unwrap(), format!("key-{index}"));
    }
    assert_eq!(decoder.next_offset(), 6);
}

#[test]
fn chunks_end_at_the_soft_limit_and_lose_nothing() {
    for codec in Compression::ALL {
        let record_set: Vec<u8> = (0..50)
            .flat_map(|index| batch(index * 10, 10, codec))
            .collect();
        for soft_limit in [0, 1, 1000, 5000, 1 << 20] {
            let mut decoder = Decoder::new(record_set.clone().into(), 0, &OPTIONS, None);
            let (chunks, error) = chunks_of(&mut decoder, soft_limit);
            assert_eq!(error, None);
            assert_eq!(
                offsets(&records_of(&chunks)),
                (0..500).collect::<Vec<_>>(),
                "{codec:?} {soft_limit}"
            );
            match soft_limit {
                0 | 1 => assert_eq!(chunks.len(), 50),
                1000 | 5000 => assert!(
                    chunks.len() > 2
                        && chunks
                            .iter()
                            .skip(1)
                            .any(|chunk| chunk.len() > 10 || soft_limit == 1000)
                ),
                _ => assert_eq!(chunks.len(), 1),
            }
        }
    }
}

#[test]
fn a_caller_can_stop_between_chunks() {
    let record_set: Vec<u8> = (0..4)
        .flat_map(|index| batch(index * 5, 5, Compression::Lz4))
        .collect();
    let mut decoder = Decoder::new(record_set.into(), 0, &OPTIONS, None);
    for expected in [5, 10, 15, 20] {
        assert!(decoder.next_chunk(0).unwrap().is_some());
        assert_eq!(decoder.next_offset(), expected);
    }
    assert!(decoder.next_chunk(0).unwrap().is_none());
    assert_eq!(decoder.remaining_bytes(), 0);
}

#[test]
fn a_chunk_ends_where_epoch_or_timestamp_type_change() {
    let log_append = altered(batch(2, 2, Compression::None), |batch| batch[22] |= 0x08);
    let mut next_epoch = batch(4, 2, Compression::None);
    next_epoch[12..16].copy_from_slice(&9_i32.to_be_bytes());
    let record_set = [batch(0, 2, Compression::None), log_append, next_epoch].concat();
    let records = decode(&record_set, 0).unwrap();
    let kinds: Vec<_> = records
        .iter()
        .map(|record| (record.timestamp_type, record.leader_epoch))
        .collect();
    assert_eq!(kinds, [(0, 3), (0, 3), (1, 3), (1, 3), (0, 9), (0, 9)]);
    assert_eq!(
        (records[2].timestamp, records[3].timestamp),
        (1003, 1003),
        "the batch's greatest, for all"
    );
}

#[test]
fn compaction_leaves_gaps_and_empty_batches() {
    // Three records that now stand at 10, 14 and 19 of a batch that once had offsets 10 to 29.
    let mut builder = BatchBuilder::new(Compression::None, None);
    for _ in 0..3 {
        builder.append(1, None, Some(b"v"), &[]).unwrap();
    }
    let sparse = altered(
        stored(builder.build(&Producer::default()).unwrap(), 10),
        |batch| {
            let record = 8; // Each record has eight bytes: its length, attributes, two deltas, null key, "v", no headers.
            assert_eq!(batch.len(), 61 + 3 * record);
            batch[61 + record + 3] = 4 << 1;
            batch[61 + 2 * record + 3] = 9 << 1;
            batch[23..27].copy_from_slice(&19_i32.to_be_bytes());
        },
    );
    let empty = altered(batch(30, 1, Compression::None), |batch| {
        batch.truncate(61);
        batch[23..27].copy_from_slice(&69_i32.to_be_bytes());
        batch[57..61].copy_from_slice(&0_i32.to_be_bytes());
    });
    let (records, next) = decode_with(&sparse, 12, &OPTIONS, None, 1 << 20).unwrap();
    assert_eq!((offsets(&records), next), (vec![14, 19], 30));
    let record_set = [sparse, empty].concat();
    let (records, next) = decode_with(&record_set, 0, &OPTIONS, None, 1 << 20).unwrap();
    assert_eq!((offsets(&records), next), (vec![10, 14, 19], 100));
    assert_eq!(scan(&record_set).unwrap().next_offset, Some(100));
}

#[test]
fn control_batches_are_never_for_the_user() {
    let record_set = [
        transactional(0, 2, 7, Compression::None),
        marker(2, 7, true),
        batch(3, 1, Compression::None),
        marker(4, 7, false),
    ]
    .concat();
    let (records, next) = decode_with(&record_set, 0, &OPTIONS, None, 1 << 20).unwrap();
    assert_eq!((offsets(&records), next), (vec![0, 1, 3], 5));
    assert_eq!(committed(&record_set, &[]), (vec![0, 1, 3], 5));
    assert_eq!(
        decode_with(&marker(9, 7, true), 9, &OPTIONS, None, 1),
        Ok((vec![], 10))
    );
}

#[test]
fn aborted_transactions_with_an_unsorted_list() {
    for codec in [Compression::None, Compression::Zstd] {
        let record_set = [
            transactional(0, 2, 1, codec), // aborted
            transactional(2, 2, 2, codec), // committed
            batch(4, 1, codec),            // no transaction
            marker(5, 1, false),
            marker(6, 2, true),
            transactional(7, 2, 1, codec), // the same producer, committed
            marker(9, 1, true),
            transactional(10, 3, 2, codec), // aborted, across batches
            transactional(13, 1, 1, codec), // aborted
            transactional(14, 1, 2, codec),
            marker(15, 2, false),
            marker(16, 1, false),
            transactional(17, 1, 1, codec), // committed
            marker(18, 1, true),
        ]
        .concat();
        let expected = (vec![2, 3, 4, 7, 8, 17], 19);
        assert_eq!(
            committed(&record_set, &[(1, 13), (2, 10), (1, 0)]),
            expected,
            "{codec:?}"
        );
        assert_eq!(
            committed(&record_set, &[(2, 10), (1, 0), (1, 13), (1, 0)]),
            expected,
            "twice the same"
        );
    }
}

#[test]
fn double_markers_and_markers_without_an_entry() {
    let record_set = [
        marker(0, 1, false), // of a transaction that was over before this fetch
        transactional(1, 1, 1, Compression::None),
        marker(2, 1, false),
        marker(3, 1, false),
        transactional(4, 1, 1, Compression::None),
        marker(5, 1, true),
        marker(6, 9, true),
    ]
    .concat();
    assert_eq!(committed(&record_set, &[(1, 1)]), (vec![4], 7));
    assert_eq!(committed(&record_set, &[]), (vec![1, 4], 7));
}

#[test]
fn a_fetch_that_is_all_aborted_still_moves_on() {
    let record_set = [
        transactional(0, 5, 4, Compression::Gzip),
        marker(5, 4, false),
    ]
    .concat();
    assert_eq!(committed(&record_set, &[(4, 0)]), (vec![], 6));
}

#[test]
fn the_last_batch_may_be_cut() {
    let whole = batch(0, 3, Compression::None);
    let cut = batch(3, 3, Compression::None);
    for length in 0..cut.len() {
        let record_set = [&whole[..], &cut[..length]].concat();
        let (records, next) = decode_with(&record_set, 0, &OPTIONS, None, 1 << 20).unwrap();
        assert_eq!((offsets(&records), next), (vec![0, 1, 2], 3));
        let found = scan(&record_set).unwrap();
        assert_eq!(
            (found.next_offset, found.complete_bytes, found.batches),
            (Some(3), whole.len(), 1)
        );
    }
}

#[test]
fn a_lone_cut_batch_is_an_error_that_names_the_remedy() {
    let whole = batch(40, 3, Compression::None);
    for length in 1..whole.len() {
        let error = decode(&whole[..length], 40).unwrap_err();
        assert_eq!(error.offset, 40);
        let expected = if length < 12 {
            DecodeErrorKind::Corrupt
        } else {
            DecodeErrorKind::TooLarge
        };
        assert_eq!(error.kind, expected, "{length}");
        assert!(
            length < 12 || error.message.contains("max.partition.fetch.bytes"),
            "{}",
            error.message
        );
        assert_eq!(scan(&whole[..length]).unwrap().next_offset, None);
    }
    assert_eq!(decode(&[], 40), Ok(vec![]));
}

#[test]
fn what_is_before_an_error_comes_first() {
    for codec in Compression::ALL {
        let mut broken = batch(20, 10, codec);
        let last = broken.len() - 1;
        broken[last] ^= 1;
        let record_set = [
            batch(0, 10, codec),
            batch(10, 10, codec),
            broken,
            batch(30, 10, codec),
        ]
        .concat();
        let mut decoder = Decoder::new(record_set.into(), 5, &OPTIONS, None);
        let (chunks, error) = chunks_of(&mut decoder, 1 << 20);
        assert_eq!(offsets(&records_of(&chunks)), (5..20).collect::<Vec<_>>());
        assert_eq!(decoder.next_offset(), 20);
        let error = error.unwrap();
        assert_eq!((error.kind, error.offset), (DecodeErrorKind::Corrupt, 20));
        assert!(error.message.contains("checksum"), "{}", error.message);
    }
}

#[test]
fn a_batch_that_fails_half_way_leaves_nothing_behind() {
    // The second batch's last record lies about its length: two of its records were read before that was seen.
    for codec in [Compression::None, Compression::Snappy] {
        let mut records = batch(0, 3, Compression::None)[61..].to_vec();
        let last = records.len() - 1;
        records[last] = 2;
        let packed = penstock_dataplane::compression::compress(codec, None, &records).unwrap();
        let record_set = [
            batch(0, 3, codec),
            common::batch_of_bytes(3, codec, 3, &packed),
        ]
        .concat();
        let mut decoder = Decoder::new(record_set.into(), 0, &OPTIONS, None);
        let (chunks, error) = chunks_of(&mut decoder, 1 << 20);
        assert_eq!(offsets(&records_of(&chunks)), [0, 1, 2]);
        assert_eq!(
            error.map(|error| (error.kind, error.offset)),
            Some((DecodeErrorKind::Corrupt, 3))
        );
    }
}

#[test]
fn checksums_can_be_left_unchecked() {
    let mut wrong = batch(0, 3, Compression::None);
    wrong[17] ^= 0xff;
    assert_eq!(
        decode(&wrong, 0).unwrap_err().kind,
        DecodeErrorKind::Corrupt
    );
    let unchecked = DecodeOptions {
        check_crcs: false,
        ..OPTIONS
    };
    assert_eq!(
        decode_with(&wrong, 0, &unchecked, None, 1).unwrap().0.len(),
        3
    );
}

#[test]
fn formats_of_the_future_are_named_as_such() {
    let mut magic = batch(8, 1, Compression::None);
    magic[16] = 3;
    let error = decode(&magic, 8).unwrap_err();
    assert_eq!(
        (error.kind, error.offset),
        (DecodeErrorKind::UnsupportedFormat, 8)
    );
    assert!(error.message.contains("v3"));
    let codec = altered(batch(8, 1, Compression::None), |batch| batch[22] |= 5);
    let error = decode(&codec, 8).unwrap_err();
    assert_eq!(
        (error.kind, error.offset),
        (DecodeErrorKind::UnsupportedFormat, 8)
    );
    assert!(error.message.contains("codec number 5"));
}

#[test]
fn the_header_reads_back() {
    let mut builder = BatchBuilder::new(Compression::Lz4, None);
    builder.append(50, None, None, &[]).unwrap();
    builder.append(20, None, None, &[]).unwrap();
    builder.append(90, None, None, &[]).unwrap();
    let producer = Producer {
        id: 77,
        epoch: 5,
        base_sequence: 12,
        transactional: true,
    };
    let header = BatchHeader::read(&builder.build(&producer).unwrap()).unwrap();
    assert_eq!(
        (
            header.producer_id,
            header.producer_epoch,
            header.base_sequence
        ),
        (77, 5, 12)
    );
    assert_eq!((header.base_timestamp, header.max_timestamp), (50, 90));
    assert_eq!(
        (
            header.record_count,
            header.last_offset_delta,
            header.leader_epoch
        ),
        (3, 2, -1)
    );
    assert!(header.is_transactional() && !header.is_control() && !header.is_log_append_time());
    assert_eq!(
        Compression::of_attributes(header.attributes),
        Some(Compression::Lz4)
    );
}
