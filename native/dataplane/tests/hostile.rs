//! Bytes that mean harm: lengths that lie, counts that cannot be, bombs. The answer is a typed error in bounded memory.

mod common;

use common::{OPTIONS, altered, batch, batch_of_bytes, chunks_of, decode, decode_with};
use penstock_dataplane::batch::scan;
use penstock_dataplane::compression::{Compression, DecompressError, Decompressors, compress};
use penstock_dataplane::crc;
use penstock_dataplane::decode::{DecodeErrorKind, DecodeOptions, Decoder};

const PACKED: [Compression; 4] = [
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

fn corrupt(record_set: &[u8], why: &str) {
    let error = decode(record_set, 0).expect_err(why);
    assert_eq!(
        error.kind,
        DecodeErrorKind::Corrupt,
        "{why}: {}",
        error.message
    );
}

#[test]
fn lengths_that_no_batch_can_have() {
    for length in [i32::MIN, -1, 0, 13, 48] {
        let mut bytes = batch(0, 3, Compression::None);
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        corrupt(&bytes, "length");
        assert!(scan(&bytes).is_err());
    }
    let mut bytes = batch(0, 3, Compression::None);
    bytes[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
    assert_eq!(
        decode(&bytes, 0).unwrap_err().kind,
        DecodeErrorKind::TooLarge
    );
}

#[test]
fn offsets_that_no_log_can_have() {
    let mut bytes = batch(0, 3, Compression::None);
    bytes[..8].copy_from_slice(&(-5_i64).to_be_bytes());
    corrupt(&bytes, "negative base offset");
    let mut bytes = batch(0, 3, Compression::None);
    bytes[..8].copy_from_slice(&(i64::MAX - 1).to_be_bytes());
    corrupt(&bytes, "last offset beyond 63 bits");
    for delta in [-1_i32, i32::MIN] {
        let bytes = altered(batch(0, 3, Compression::None), |batch| {
            batch[23..27].copy_from_slice(&delta.to_be_bytes())
        });
        corrupt(&bytes, "negative last offset delta");
    }
    let bytes = altered(batch(0, 3, Compression::None), |batch| {
        batch[23..27].copy_from_slice(&1_i32.to_be_bytes())
    });
    corrupt(&bytes, "a record beyond the batch's last offset");
}

#[test]
fn counts_that_the_bytes_cannot_hold() {
    for codec in Compression::ALL {
        for count in [i32::MIN, -1, 0, 2, 4, 100, i32::MAX] {
            let bytes = altered(batch(0, 3, codec), |batch| {
                batch[57..61].copy_from_slice(&count.to_be_bytes())
            });
            match count {
                // Nothing says that an emptied batch must have lost its bytes.
                0 => assert_eq!(decode(&bytes, 0), Ok(vec![])),
                _ => corrupt(&bytes, "record count"),
            }
        }
    }
}

/// A record of these parts, whatever its length field says.
fn record(length: &[u8], parts: &[u8]) -> Vec<u8> {
    [length, parts].concat()
}

#[test]
fn records_that_lie() {
    const HUGE: [u8; 5] = [0xfe, 0xff, 0xff, 0xff, 0x0f]; // i32::MAX as a zigzag varint
    const MINUS_TWO: u8 = 3;
    let cases: [(&str, Vec<u8>); 12] = [
        ("negative length", record(&[1], &[0, 0, 0, 1, 1, 0])),
        ("huge length", record(&HUGE, &[0, 0, 0, 1, 1, 0])),
        ("length one too many", record(&[14], &[0, 0, 0, 1, 1, 0])),
        ("length one too few", record(&[10], &[0, 0, 0, 1, 1, 0])),
        ("key length -2", record(&[12], &[0, 0, 0, MINUS_TWO, 1, 0])),
        (
            "value length -2",
            record(&[12], &[0, 0, 0, 1, MINUS_TWO, 0]),
        ),
        (
            "huge key",
            record(&[20], &[&[0, 0, 0][..], &HUGE, &[1, 0]].concat()),
        ),
        (
            "huge value",
            record(&[20], &[&[0, 0, 0, 1][..], &HUGE, &[0]].concat()),
        ),
        ("negative header count", record(&[12], &[0, 0, 0, 1, 1, 1])),
        (
            "huge header count",
            record(&[20], &[&[0, 0, 0, 1, 1][..], &HUGE].concat()),
        ),
        ("null header key", record(&[16], &[0, 0, 0, 1, 1, 2, 1, 1])),
        (
            "endless integer",
            record(&[12], &[0, 0x80, 0x80, 0x80, 0x80, 0x80]),
        ),
    ];
    let sound = record(&[12], &[0, 0, 0, 1, 1, 0]);
    for codec in Compression::ALL {
        let pack = |records: &[u8]| compress(codec, None, records).unwrap();
        assert_eq!(
            decode(&batch_of_bytes(0, codec, 1, &pack(&sound)), 0)
                .unwrap()
                .len(),
            1
        );
        for (why, bytes) in &cases {
            corrupt(&batch_of_bytes(0, codec, 1, &pack(bytes)), why);
        }
        corrupt(
            &batch_of_bytes(0, codec, 1, &pack(&sound.repeat(2))),
            "bytes after the last record",
        );
        corrupt(
            &batch_of_bytes(0, codec, 2, &pack(&sound.repeat(2))),
            "two records of one offset",
        );
    }
}

#[test]
fn bombs_stop_at_the_limit() {
    let limit = 1 << 20;
    let options = DecodeOptions {
        check_crcs: true,
        max_batch_bytes: limit,
    };
    let zeros = vec![0_u8; 64 << 20];
    for codec in PACKED {
        let bomb = compress(codec, None, &zeros).unwrap();
        let mut out = Vec::new();
        let result = Decompressors::default().decompress(codec, &bomb, &mut out, limit);
        assert_eq!(result, Err(DecompressError::TooLarge), "{codec:?}");
        assert!(
            out.capacity() <= 2 * limit + 4096,
            "{codec:?}: {} bytes",
            out.capacity()
        );
        let error =
            decode_with(&batch_of_bytes(70, codec, 1, &bomb), 70, &options, None, 1).unwrap_err();
        assert_eq!((error.kind, error.offset), (DecodeErrorKind::TooLarge, 70));
    }
}

#[test]
fn many_tiny_records_count_by_their_index() {
    let count = 100_000;
    let mut records = Vec::new();
    for index in 0..count {
        let mut varint = Vec::new();
        let mut rest = (index as u32) << 1;
        while rest >= 0x80 {
            varint.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        varint.push(rest as u8);
        records.push((5 + varint.len() as u8) << 1);
        records.extend([&[0, 0][..], &varint, &[1, 1, 0]].concat());
    }
    let bytes = batch_of_bytes(
        0,
        Compression::Zstd,
        count,
        &compress(Compression::Zstd, None, &records).unwrap(),
    );
    let roomy = DecodeOptions {
        check_crcs: true,
        max_batch_bytes: 4_000_000,
    };
    assert_eq!(
        decode_with(&bytes, 0, &roomy, None, 1).unwrap().0.len(),
        count as usize
    );
    let tight = DecodeOptions {
        check_crcs: true,
        max_batch_bytes: 2_000_000,
    };
    assert_eq!(
        decode_with(&bytes, 0, &tight, None, 1).unwrap_err().kind,
        DecodeErrorKind::TooLarge
    );
}

#[test]
fn declared_sizes_reserve_nothing() {
    // Snappy: a length of 100 MB before three bytes. Zstd: a frame header with a content size of 100 MB, and no frame.
    let snappy = [0x80, 0xc2, 0xd7, 0x2f, 0, 0, 0];
    let zstd = [
        &[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..],
        &100_000_000_u32.to_le_bytes(),
    ]
    .concat();
    for (codec, input) in [
        (Compression::Snappy, &snappy[..]),
        (Compression::Zstd, &zstd),
    ] {
        let mut out = Vec::new();
        let result = Decompressors::default().decompress(codec, input, &mut out, 1 << 30);
        assert!(
            matches!(result, Err(DecompressError::Corrupt(_))),
            "{codec:?} {result:?}"
        );
        assert!(out.capacity() < 1 << 20, "{codec:?}: {}", out.capacity());
    }
}

#[test]
fn codecs_cut_anywhere() {
    let data: Vec<u8> = (0..6000_u32)
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let mut states = Decompressors::default();
    for codec in PACKED {
        let packed = compress(codec, None, &data).unwrap();
        for length in 0..packed.len() {
            let mut out = Vec::new();
            let result = states.decompress(codec, &packed[..length], &mut out, 1 << 20);
            // A frame that lost nothing but its end mark or a whole last block may pass; a part of the data at most.
            assert!(
                result.is_err() || data.starts_with(&out),
                "{codec:?} {length}"
            );
        }
        let mut out = Vec::new();
        states
            .decompress(codec, &packed, &mut out, 1 << 20)
            .unwrap();
        assert_eq!(out, data, "{codec:?} works on after failures");
    }
}

/// A v1 message with this value, its checksum right.
fn message(offset: i64, attributes: u8, value: &[u8]) -> Vec<u8> {
    let mut counted = vec![1, attributes];
    counted.extend(1000_i64.to_be_bytes());
    counted.extend((-1_i32).to_be_bytes());
    counted.extend((value.len() as i32).to_be_bytes());
    counted.extend(value);
    let mut out = offset.to_be_bytes().to_vec();
    out.extend((counted.len() as i32 + 4).to_be_bytes());
    out.extend(crc::crc32(&counted).to_be_bytes());
    out.extend(counted);
    out
}

#[test]
fn message_sets_that_lie() {
    let gzip = |set: &[u8]| compress(Compression::Gzip, None, set).unwrap();
    let inner = [message(0, 0, b"a"), message(1, 0, b"b")].concat();
    assert_eq!(
        common::offsets(&decode(&message(9, 1, &gzip(&inner)), 0).unwrap()),
        [8, 9]
    );
    let mut wrong_magic = message(0, 0, b"a");
    wrong_magic[16] = 0;
    let mut cut = inner.clone();
    cut.pop();
    let mut wrong_crc = inner.clone();
    wrong_crc[12] ^= 1;
    let mut negative = inner.clone();
    negative[8..12].copy_from_slice(&(-1_i32).to_be_bytes());
    for (why, set) in [
        ("nothing inside", vec![]),
        ("compressed twice", message(0, 1, &gzip(&inner))),
        ("v0 inside v1", wrong_magic),
        ("cut", cut),
        ("inner checksum", wrong_crc),
        ("negative inner length", negative),
        (
            "offsets that descend",
            [message(5, 0, b"a"), message(1, 0, b"b")].concat(),
        ),
        (
            "offsets that repeat",
            [message(0, 0, b"a"), message(0, 0, b"b")].concat(),
        ),
        ("v2 inside v1", batch(0, 1, Compression::None)),
    ] {
        corrupt(&message(9, 1, &gzip(&set)), why);
    }
    assert_eq!(
        decode(&message(9, 4, b"x"), 0).unwrap_err().kind,
        DecodeErrorKind::UnsupportedFormat,
        "zstd in v1"
    );
    let mut key = message(0, 0, b"value");
    key[26..30].copy_from_slice(&1000_i32.to_be_bytes());
    let crc = crc::crc32(&key[16..]);
    key[12..16].copy_from_slice(&crc.to_be_bytes());
    corrupt(&key, "a key longer than the message");
}

#[test]
fn control_batches_that_lie() {
    let control = |records: &[u8]| {
        altered(batch_of_bytes(0, Compression::None, 1, records), |batch| {
            batch[22] |= 0x30
        })
    };
    let committed = |bytes: &[u8]| decode_with(bytes, 0, &OPTIONS, Some(vec![]), 1);
    for records in [&[][..], &[12, 0, 0, 0, 1, 1, 0], &[2], &[0x80; 9]] {
        assert_eq!(
            committed(&control(records)).unwrap_err().kind,
            DecodeErrorKind::Corrupt,
            "{records:?}"
        );
        assert_eq!(
            decode_with(&control(records), 0, &OPTIONS, None, 1),
            Ok((vec![], 1))
        );
    }
}

#[test]
fn an_error_does_not_end_the_memory_of_a_thread() {
    // The decompression states are shared by all decoders of a thread: a failure must not spoil the next batch.
    for codec in PACKED {
        let sound = batch(0, 50, codec);
        let mut broken = sound.clone();
        broken.truncate(sound.len() - 9);
        let broken = altered(broken, |_| ());
        for _ in 0..3 {
            let mut decoder = Decoder::new(broken.clone().into(), 0, &OPTIONS, None);
            let (_, error) = chunks_of(&mut decoder, 1 << 20);
            assert!(error.is_some(), "{codec:?}");
            assert_eq!(decode(&sound, 0).unwrap().len(), 50);
        }
    }
}
