//! v2 record batches in the making. Source: KIP-98, <https://kafka.apache.org/documentation/#recordbatch>.

use crate::batch::{V2_CRC_FROM, V2_HEADER_BYTES};
use crate::compression::{Compression, compress};
use crate::crc;
use crate::varint::{put_varint, put_varlong, varlong_size};

const MAGIC: u8 = 2;
const TRANSACTIONAL: i16 = 0x10;
const MAX_BATCH_BYTES: usize = i32::MAX as usize;

/// Why a batch cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The batch would be larger than its length field can say.
    #[error(
        "the batch would have more than {MAX_BATCH_BYTES} bytes; build it and begin another one"
    )]
    TooLarge,
    /// The codec's library refused.
    #[error("the batch could not be compressed: {0}")]
    Compression(#[from] std::io::Error),
}

/// Who produces a batch; all -1 without idempotence. Source: KIP-98.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// From InitProducerId.
    pub id: i64,
    /// From InitProducerId.
    pub epoch: i16,
    /// The sequence number of the batch's first record.
    pub base_sequence: i32,
    /// Part of a transaction.
    pub transactional: bool,
}

impl Default for Producer {
    fn default() -> Self {
        Self {
            id: -1,
            epoch: -1,
            base_sequence: -1,
            transactional: false,
        }
    }
}

/// One v2 record batch in the making. Base offset 0, as the broker sets the offsets.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    compression: Compression,
    level: Option<i32>,
    records: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch. `level` concerns gzip and zstd.
    pub fn new(compression: Compression, level: Option<i32>) -> Self {
        Self {
            compression,
            level,
            records: Vec::new(),
            count: 0,
            base_timestamp: -1,
            max_timestamp: -1,
        }
    }

    /// Adds a record; returns the batch's size in bytes so far, before compression.
    ///
    /// # Errors
    /// `TooLarge`; the batch is as it was before.
    pub fn append(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<usize, EncodeError> {
        let first = self.count == 0;
        let base_timestamp = if first {
            timestamp_ms
        } else {
            self.base_timestamp
        };
        let timestamp_delta = timestamp_ms.wrapping_sub(base_timestamp);
        let header_sizes = headers
            .iter()
            .map(|(key, value)| field_size(Some(key)) + field_size(*value));
        let length = 1
            + varlong_size(timestamp_delta)
            + varlong_size(i64::from(self.count))
            + field_size(key)
            + field_size(value)
            + varlong_size(headers.len() as i64)
            + header_sizes.sum::<usize>();
        // Ten bytes: what the length itself may take, rounded up.
        if self.size_bytes() + length + 10 > MAX_BATCH_BYTES {
            return Err(EncodeError::TooLarge);
        }
        let out = &mut self.records;
        out.reserve(length + 10);
        put_varint(out, length as i32);
        out.push(0);
        put_varlong(out, timestamp_delta);
        put_varint(out, self.count);
        put_field(out, key);
        put_field(out, value);
        put_varint(out, headers.len() as i32);
        for (key, value) in headers {
            put_field(out, Some(key));
            put_field(out, *value);
        }
        self.count += 1;
        self.base_timestamp = base_timestamp;
        self.max_timestamp = if first {
            timestamp_ms
        } else {
            self.max_timestamp.max(timestamp_ms)
        };
        Ok(self.size_bytes())
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// True before the first record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The size in bytes so far, before compression.
    pub fn size_bytes(&self) -> usize {
        V2_HEADER_BYTES + self.records.len()
    }

    /// The whole batch, compressed, with its checksum. The builder stays usable, for a retry with another epoch.
    ///
    /// # Errors
    /// `Compression`, or `TooLarge` where compression made it so.
    pub fn build(&self, producer: &Producer) -> Result<Vec<u8>, EncodeError> {
        let packed = match self.compression {
            Compression::None => None,
            codec => Some(compress(codec, self.level, &self.records)?),
        };
        let records = packed.as_deref().unwrap_or(&self.records);
        let size = V2_HEADER_BYTES + records.len();
        if size > MAX_BATCH_BYTES {
            return Err(EncodeError::TooLarge);
        }
        let attributes = self.compression as i16
            | if producer.transactional {
                TRANSACTIONAL
            } else {
                0
            };
        let mut counted = Vec::with_capacity(size - V2_CRC_FROM);
        counted.extend_from_slice(&attributes.to_be_bytes());
        counted.extend_from_slice(&(self.count - 1).max(0).to_be_bytes());
        counted.extend_from_slice(&self.base_timestamp.to_be_bytes());
        counted.extend_from_slice(&self.max_timestamp.to_be_bytes());
        counted.extend_from_slice(&producer.id.to_be_bytes());
        counted.extend_from_slice(&producer.epoch.to_be_bytes());
        counted.extend_from_slice(&producer.base_sequence.to_be_bytes());
        counted.extend_from_slice(&self.count.to_be_bytes());
        counted.extend_from_slice(records);
        let mut batch = Vec::with_capacity(size);
        batch.extend_from_slice(&0_i64.to_be_bytes()); // Base offset.
        batch.extend_from_slice(&((size - 12) as i32).to_be_bytes());
        batch.extend_from_slice(&(-1_i32).to_be_bytes()); // Leader epoch: the broker's to set.
        batch.push(MAGIC);
        batch.extend_from_slice(&crc::crc32c(&counted).to_be_bytes());
        batch.extend_from_slice(&counted);
        Ok(batch)
    }
}

fn field_size(field: Option<&[u8]>) -> usize {
    field.map_or(1, |bytes| varlong_size(bytes.len() as i64) + bytes.len())
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, bytes.len() as i32);
            out.extend_from_slice(bytes);
        }
    }
}
