//! Records as spans over shared bytes: 32 bytes each until somebody reads them.

use std::sync::Weak;

use bytes::Bytes;

use crate::recycle::Recycler;
use crate::varint::Cursor;

/// Who set a record's timestamp. Source: KIP-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum TimestampType {
    /// Message format v0 has none; the timestamp reads -1.
    None = -1,
    /// The producer.
    Create = 0,
    /// The broker, when it appended the batch.
    LogAppend = 1,
}

/// Where one record's parts lie in its chunk's bytes. A length of -1 means null. Headers follow the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSpan {
    /// The record's offset in its partition.
    pub offset: i64,
    /// Milliseconds since 1970, or -1.
    pub timestamp: i64,
    /// Index of the key's first byte.
    pub key_start: u32,
    /// The key's length in bytes, -1 for null.
    pub key_len: i32,
    /// Index of the value's first byte; of the byte after its length where the value is null.
    pub value_start: u32,
    /// The value's length in bytes, -1 for null.
    pub value_len: i32,
}

/// A run of records of one partition over one shared buffer.
///
/// Uncompressed batches: a slice of the response frame, never copied. Compressed: what they decompressed to, one after
/// another. A chunk ends where the leader epoch, the timestamp type or the presence of headers changes, so that those
/// are stored once. Spans lie within the bytes (the decoder saw to it) and ascend in offset and in position.
#[derive(Debug)]
pub struct Chunk {
    /// What the spans point into.
    pub bytes: Bytes,
    /// One per record, ascending in offset.
    pub spans: Vec<RecordSpan>,
    pub(crate) leader_epoch: i32,
    pub(crate) timestamp_type: TimestampType,
    pub(crate) has_headers: bool,
    /// What the buffer behind `bytes` holds of the memory, spare capacity included.
    pub(crate) retained_bytes: usize,
    /// Where the index goes when the chunk is dropped.
    pub(crate) recycler: Weak<Recycler>,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(recycler) = self.recycler.upgrade() {
            recycler.give_spans(std::mem::take(&mut self.spans));
        }
    }
}

impl Chunk {
    /// The number of records.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// True without a record. The decoder never returns such a chunk.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of the keys and values of records `start..end`.
    pub fn payload_bytes(&self, start: usize, end: usize) -> u64 {
        let spans = self.spans.get(start..end).unwrap_or_default();
        let lengths = spans.iter().map(|span| {
            u64::from(span.key_len.max(0).unsigned_abs())
                + u64::from(span.value_len.max(0).unsigned_abs())
        });
        lengths.sum()
    }

    /// The offset of record `index`; -1 beyond the end.
    #[inline]
    pub fn offset(&self, index: usize) -> i64 {
        self.spans.get(index).map_or(-1, |span| span.offset)
    }

    /// The timestamp of record `index`, milliseconds since 1970; -1 for none and beyond the end.
    #[inline]
    pub fn timestamp(&self, index: usize) -> i64 {
        self.spans.get(index).map_or(-1, |span| span.timestamp)
    }

    /// Who set the timestamp of record `index`.
    #[inline]
    pub fn timestamp_type(&self, _index: usize) -> TimestampType {
        self.timestamp_type
    }

    /// The leader epoch of record `index`; -1 in message formats v0 and v1, which have none. Source: KIP-101.
    #[inline]
    pub fn leader_epoch(&self, _index: usize) -> i32 {
        self.leader_epoch
    }

    /// The key of record `index`.
    #[inline]
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        let span = self.spans.get(index)?;
        slice(&self.bytes, span.key_start, span.key_len)
    }

    /// The value of record `index`.
    #[inline]
    pub fn value(&self, index: usize) -> Option<&[u8]> {
        let span = self.spans.get(index)?;
        slice(&self.bytes, span.value_start, span.value_len)
    }

    /// The key as bytes that keep the chunk's buffer alive, without a copy.
    pub fn shared_key(&self, index: usize) -> Option<Bytes> {
        self.key(index).map(|key| self.bytes.slice_ref(key))
    }

    /// The value as bytes that keep the chunk's buffer alive, without a copy.
    pub fn shared_value(&self, index: usize) -> Option<Bytes> {
        self.value(index).map(|value| self.bytes.slice_ref(value))
    }

    /// The headers of record `index`, parsed as they are read. Keys are UTF-8 by the protocol, which is not checked.
    pub fn headers(&self, index: usize) -> Headers<'_> {
        let at = match (self.has_headers, self.spans.get(index)) {
            (true, Some(span)) => span.value_start as usize + span.value_len.max(0) as usize,
            _ => return Headers::none(),
        };
        let mut cursor = Cursor::new(&self.bytes, at);
        let left = cursor.varint().unwrap_or(0).max(0) as usize;
        Headers { cursor, left }
    }

    /// How many headers record `index` has.
    pub fn header_count(&self, index: usize) -> usize {
        self.headers(index).left
    }

    /// What this chunk holds of the memory: its buffer and its index. A frame that several chunks share counts in each
    /// by its slice.
    pub fn memory_bytes(&self) -> usize {
        self.retained_bytes + self.spans.capacity() * size_of::<RecordSpan>() + size_of::<Self>()
    }
}

#[inline]
fn slice(bytes: &[u8], start: u32, len: i32) -> Option<&[u8]> {
    let len = usize::try_from(len).ok()?;
    bytes.get(start as usize..start as usize + len)
}

/// The headers of one record: (key, value or None).
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl Headers<'_> {
    fn none() -> Self {
        Headers {
            cursor: Cursor::new(&[], 0),
            left: 0,
        }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let key = self.cursor.header_key().ok()?;
        let value = self.cursor.header_value().ok()?;
        Some((key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}
