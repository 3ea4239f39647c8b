//! What every input must satisfy. The fuzz targets run these without end, tests/fuzz_bounded.rs a bounded number of times.

use bytes::Bytes;
use penstock_dataplane::batch;
use penstock_dataplane::compression::{
    Compression, DecompressError, Decompressors, mend_lz4_header,
};
use penstock_dataplane::decode::{Aborted, DecodeOptions, Decoder};

const LIMIT: usize = 1 << 20;

/// Any bytes give records or a typed error. The first two bytes choose the options, the rest is the record set.
pub fn decode(data: &[u8]) {
    let (Some(&flags), Some(&soft), Some(record_set)) = (data.first(), data.get(1), data.get(2..))
    else {
        return;
    };
    let options = DecodeOptions {
        check_crcs: flags & 1 != 0,
        max_batch_bytes: LIMIT,
    };
    let fetch_offset = if flags & 2 != 0 { i64::from(soft) } else { 0 };
    let aborted = |id: u8| Aborted {
        producer_id: i64::from(id),
        first_offset: i64::from(id >> 2),
    };
    let aborted =
        (flags & 4 != 0).then(|| record_set.iter().take(9).map(|&id| aborted(id)).collect());
    let whole = Bytes::copy_from_slice(record_set);
    let mut decoder = Decoder::new(whole, fetch_offset, &options, aborted);
    let mut least = fetch_offset;
    while let Ok(Some(chunk)) = decoder.next_chunk(usize::from(soft) * 64) {
        assert!(!chunk.is_empty());
        assert!(chunk.bytes.len() <= LIMIT + record_set.len() + usize::from(soft) * 64);
        for index in 0..chunk.len() {
            assert!(chunk.offset(index) >= least, "offsets ascend");
            least = chunk.offset(index) + 1;
            let (key, value) = (chunk.key(index), chunk.value(index));
            assert_eq!(
                key.is_some(),
                chunk.spans[index].key_len >= 0,
                "a key lies within its chunk"
            );
            assert_eq!(
                value.is_some(),
                chunk.spans[index].value_len >= 0,
                "a value lies within its chunk"
            );
            assert_eq!(
                chunk.headers(index).count(),
                chunk.header_count(index),
                "headers were checked"
            );
        }
    }
    assert!(
        decoder.next_offset() >= least,
        "the next fetch repeats nothing"
    );
}

/// The scan and the decoder agree on where the next fetch starts.
pub fn scan(data: &[u8]) {
    let Ok(found) = batch::scan(data) else { return };
    assert!(found.complete_bytes <= data.len());
    assert_eq!(found.next_offset.is_some(), found.batches > 0);
    let options = DecodeOptions {
        check_crcs: false,
        max_batch_bytes: LIMIT,
    };
    let mut decoder = Decoder::new(Bytes::copy_from_slice(data), 0, &options, None);
    let end = loop {
        match decoder.next_chunk(LIMIT) {
            Ok(Some(_)) => {}
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    match found.next_offset {
        Some(next_offset) if end => assert_eq!(decoder.next_offset(), next_offset),
        _ => {}
    }
}

fn decompress(codec: Compression, data: &[u8]) {
    let mut states = Decompressors::default();
    let mut first = None;
    for limit in [LIMIT, LIMIT, 100] {
        let mut out = vec![1, 2, 3];
        let result = states.decompress(codec, data, &mut out, limit);
        assert!(out.starts_with(&[1, 2, 3]));
        match result {
            Ok(()) => assert!(out.len() <= limit + 3),
            Err(DecompressError::TooLarge | DecompressError::Corrupt(_)) => {}
        }
        if limit == LIMIT {
            let again = (result.is_ok(), result.is_ok().then_some(out));
            assert_eq!(
                *first.get_or_insert_with(|| again.clone()),
                again,
                "a state used before changes nothing"
            );
        }
    }
}

pub fn gzip(data: &[u8]) {
    decompress(Compression::Gzip, data);
}

pub fn snappy(data: &[u8]) {
    decompress(Compression::Snappy, data);
}

pub fn lz4(data: &[u8]) {
    decompress(Compression::Lz4, data);
    decompress(Compression::Lz4, &mend_lz4_header(data));
}

pub fn zstd(data: &[u8]) {
    decompress(Compression::Zstd, data);
}
