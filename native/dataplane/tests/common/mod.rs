//! What the tests of this crate share.
#![allow(dead_code)]

use bytes::Bytes;
use penstock_dataplane::compression::Compression;
use penstock_dataplane::crc;
use penstock_dataplane::decode::{Aborted, DecodeError, DecodeOptions, Decoder};
use penstock_dataplane::encode::{BatchBuilder, Producer};
use penstock_dataplane::record::Chunk;

pub type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A record, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub offset: i64,
    pub timestamp: i64,
    pub timestamp_type: i8,
    pub leader_epoch: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

pub fn owned(chunk: &Chunk, index: usize) -> Owned {
    let headers = chunk
        .headers(index)
        .map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)));
    Owned {
        offset: chunk.offset(index),
        timestamp: chunk.timestamp(index),
        timestamp_type: chunk.timestamp_type(index) as i8,
        leader_epoch: chunk.leader_epoch(index),
        key: chunk.key(index).map(<[u8]>::to_vec),
        value: chunk.value(index).map(<[u8]>::to_vec),
        headers: headers.collect(),
    }
}

pub const OPTIONS: DecodeOptions = DecodeOptions {
    check_crcs: true,
    max_batch_bytes: 1 << 24,
};

/// Everything up to the end or the first error: chunks, that error, and where the decoder stands.
pub fn chunks_of(decoder: &mut Decoder, soft_limit: usize) -> (Vec<Chunk>, Option<DecodeError>) {
    let mut chunks = Vec::new();
    loop {
        match decoder.next_chunk(soft_limit) {
            Ok(Some(chunk)) => {
                assert!(!chunk.is_empty());
                chunks.push(chunk);
            }
            Ok(None) => return (chunks, None),
            Err(error) => {
                assert_eq!(
                    decoder.next_chunk(soft_limit).unwrap_err(),
                    error,
                    "an error stays"
                );
                return (chunks, Some(error));
            }
        }
    }
}

pub fn records_of(chunks: &[Chunk]) -> Vec<Owned> {
    chunks
        .iter()
        .flat_map(|chunk| (0..chunk.len()).map(|index| owned(chunk, index)))
        .collect()
}

pub fn decode(record_set: &[u8], fetch_offset: i64) -> Result<Vec<Owned>, DecodeError> {
    decode_with(record_set, fetch_offset, &OPTIONS, None, 1 << 20).map(|(records, _)| records)
}

/// The records, and the offset where the next fetch starts.
pub fn decode_with(
    record_set: &[u8],
    fetch_offset: i64,
    options: &DecodeOptions,
    aborted: Option<Vec<Aborted>>,
    soft_limit: usize,
) -> Result<(Vec<Owned>, i64), DecodeError> {
    let mut decoder = Decoder::new(
        Bytes::copy_from_slice(record_set),
        fetch_offset,
        options,
        aborted,
    );
    let (chunks, error) = chunks_of(&mut decoder, soft_limit);
    error.map_or_else(|| Ok((records_of(&chunks), decoder.next_offset())), Err)
}

/// A batch of `count` small records, as a broker stores it at `base_offset`.
pub fn batch(base_offset: i64, count: usize, codec: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec, None);
    for index in 0..count {
        let offset = base_offset + index as i64;
        let (key, value) = (format!("key-{offset}"), format!("value-{offset}"));
        builder
            .append(
                1000 + offset,
                Some(key.as_bytes()),
                Some(value.as_bytes()),
                &[],
            )
            .unwrap();
    }
    stored(builder.build(&Producer::default()).unwrap(), base_offset)
}

/// A batch as it stands in a log.
pub fn stored(mut batch: Vec<u8>, base_offset: i64) -> Vec<u8> {
    batch[..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&3_i32.to_be_bytes());
    batch
}

/// Changes a v2 batch and sets its length and checksum to fit.
pub fn altered(mut batch: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut batch);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// A v2 batch whose records are these bytes, compressed or not, whatever they are.
pub fn batch_of_bytes(base_offset: i64, codec: Compression, count: i32, records: &[u8]) -> Vec<u8> {
    let empty = BatchBuilder::new(Compression::None, None)
        .build(&Producer::default())
        .unwrap();
    altered(stored(empty, base_offset), |batch| {
        batch.extend_from_slice(records);
        batch[22] |= codec as u8;
        batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        batch[57..61].copy_from_slice(&count.to_be_bytes());
    })
}

pub fn offsets(records: &[Owned]) -> Vec<i64> {
    records.iter().map(|record| record.offset).collect()
}
